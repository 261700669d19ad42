"""Agreement of measures against slow references, scipy and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.agreement import (
    images_needed,
    interval_widths,
    krippendorff_alpha,
    rank_agreement,
)


def slow_alpha(ratings: np.ndarray, level: str) -> float:
    """By coincidences, value by value, as in Krippendorff 2011."""
    units = [column[~np.isnan(column)] for column in ratings.T]
    units = [unit for unit in units if len(unit) >= 2]
    values = sorted({float(v) for unit in units for v in unit})
    place = {value: i for i, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for unit in units:
        for a, b in itertools.permutations(range(len(unit)), 2):
            coincidences[place[unit[a]], place[unit[b]]] += 1 / (len(unit) - 1)
    totals = coincidences.sum(1)

    def distance(c: int, k: int) -> float:
        if level == "interval":
            return (values[c] - values[k]) ** 2
        low, high = min(c, k), max(c, k)
        return (totals[low : high + 1].sum() - (totals[low] + totals[high]) / 2) ** 2

    pairs = list(itertools.product(range(len(values)), repeat=2))
    observed = sum(coincidences[c, k] * distance(c, k) for c, k in pairs)
    expected = sum(totals[c] * totals[k] * distance(c, k) for c, k in pairs)
    return 1 - (totals.sum() - 1) * observed / expected


# The example of Krippendorff 2011, section C: four observers, twelve units, missing values.
NO = np.nan
PUBLISHED = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
    [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
])  # fmt: skip


@pytest.mark.parametrize(("level", "published"), [("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: str, published: float) -> None:
    found = krippendorff_alpha(pd.DataFrame(PUBLISHED), level)
    assert found == pytest.approx(published, abs=5e-4)
    assert found == pytest.approx(slow_alpha(PUBLISHED, level), abs=1e-12)


@pytest.mark.parametrize("level", ["ordinal", "interval"])
def test_alpha_is_that_of_coincidences(level: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        ratings = rng.integers(0, 6, (7, 9)).astype(float)
        ratings[rng.uniform(size=ratings.shape) < 0.3] = np.nan
        expected = slow_alpha(ratings, level)
        assert krippendorff_alpha(pd.DataFrame(ratings), level) == pytest.approx(expected)


def test_an_interval_is_as_wide_as_the_central_limit_says() -> None:
    rng = np.random.default_rng(2)
    values = 0.3 + rng.standard_normal(2000)
    found = interval_widths(values, [25, 100, 400], resamples=4000).set_index("images")
    for count in found.index:
        expected = 2 * 1.96 * values.std() / np.sqrt(count)
        assert found.loc[count, "width"] == pytest.approx(expected, rel=0.06)
        shift = values.mean() * np.sqrt(count) / values.std()
        power = stats.norm.sf(1.96 - shift) + stats.norm.cdf(-1.96 - shift)
        assert found.loc[count, "decided"] == pytest.approx(power, abs=0.05)


def test_as_many_images_as_are_needed_decide_as_often_as_asked() -> None:
    rng = np.random.default_rng(3)
    values = 0.2 + rng.standard_normal(3000)
    needed = images_needed(values, power=0.8)
    assert interval_widths(values, [needed], resamples=4000)["decided"].item() == pytest.approx(
        0.8, abs=0.04
    )
    assert images_needed(-values) == needed


def test_images_needed_are_those_of_the_t_test_and_no_fewer_than_wilcoxon_can_tell() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(200)
    values = (values - values.mean()) / values.std(ddof=1)
    # Cohen 1988, table 2.4: 34 images for an effect of a half, 15 for 0.8, and R's power.t.test.
    assert [images_needed(values + effect) for effect in (0.2, 0.5, 0.8)] == [199, 34, 15]
    for count in (5, 6):
        p = stats.wilcoxon(np.arange(1.0, count + 1), method="exact").pvalue
        assert (p < 0.05) == (count >= images_needed(values + 50)), count
    assert images_needed(values + 50) == images_needed(np.ones(3)) == 6
    assert images_needed(values + 50, level=0.99) == 8
    # Without an end where adding an image changes nothing.
    assert images_needed(values + 1e-9) == pytest.approx(7.849e18, rel=1e-3)


def test_so_few_images_as_are_needed_exclude_zero_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    drawn = 1 + rng.standard_normal((20_000, 10))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    values = rng.standard_normal(200)
    values = 1 + (values - values.mean()) / values.std(ddof=1)
    assert images_needed(values) == 10
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert (stats.ttest_1samp(drawn[:, :8], 0.0, axis=1).pvalue < 0.05).mean() < 0.75


def test_unusable_values_are_refused() -> None:
    with pytest.raises(UserError, match="two different values"):
        krippendorff_alpha(pd.DataFrame(np.ones((3, 3))))
    with pytest.raises(UserError, match="level"):
        krippendorff_alpha(pd.DataFrame(PUBLISHED), "nominal")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="three or more maps"):
        rank_agreement([1.0, 2], [1.0, 2])
    with pytest.raises(UserError, match="finite"):
        interval_widths(np.array([1.0, np.nan]), [10])
    with pytest.raises(UserError, match="at least 2"):
        interval_widths(np.ones(5), [1])
    with pytest.raises(UserError, match="other than 0"):
        images_needed(np.array([1.0, -1.0]))


def test_rank_agreement_is_spearmans_with_an_interval_over_maps() -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(size=40)
    second = first + rng.normal(size=40)
    found = rank_agreement(first, np.round(second, 1), resamples=2000)
    assert found.value == pytest.approx(stats.spearmanr(first, np.round(second, 1)).statistic)
    # SciPy's own percentile bootstrap of the same statistic, up to its random draws.
    peer = stats.bootstrap(
        (first, np.round(second, 1)), lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True, vectorized=False, n_resamples=2000, method="percentile", random_state=1,
    ).confidence_interval  # fmt: skip
    assert found.low == pytest.approx(peer.low, abs=0.04)
    assert found.high == pytest.approx(peer.high, abs=0.04)
    assert np.isnan(rank_agreement(first, np.ones(40)).value)
    with pytest.raises(UserError, match="three or more maps"):
        rank_agreement([1.0, 2.0], [1.0, 2.0])
