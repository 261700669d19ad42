"""Intervals against SciPy and their nominal coverage; corrections against worked examples."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.statistics import (
    accuracy_interval,
    bootstrap_interval,
    hierarchical_interval,
    holm,
    paired_difference,
    wilcoxon_ps,
)


def test_agrees_with_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).gamma(2, size=300)
    found = bootstrap_interval(values, resamples=20000)
    peer = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = values.std() / np.sqrt(300)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(peer.low, abs=0.05 * spread)
    assert found.high == pytest.approx(peer.high, abs=0.05 * spread)


def test_whole_curves_share_their_resamples() -> None:
    values = np.random.default_rng(0).random((50, 13)) < 0.4
    together = bootstrap_interval(values)
    assert np.shape(together.low) == (13,)
    for column in (0, 7):
        alone = bootstrap_interval(values[:, column])
        assert together.value[column] == pytest.approx(alone.value)
        assert together.low[column] == pytest.approx(alone.low)
        assert together.high[column] == pytest.approx(alone.high)


def test_seed_decides() -> None:
    values = np.random.default_rng(0).random(40)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1).low != bootstrap_interval(values, seed=2).low


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        found = bootstrap_interval(rng.random(80), resamples=300, seed=trial)
        hits += found.low <= 0.5 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_constant_values_have_a_point_for_an_interval() -> None:
    assert bootstrap_interval([0.25] * 9) == pytest.approx((0.25, 0.25, 0.25))
    assert bootstrap_interval([0.25]) == pytest.approx((0.25, 0.25, 0.25))


def test_memory_is_bounded_for_ten_thousand_images() -> None:
    values = np.random.default_rng(0).random((10_000, 13))
    tracemalloc.start()
    bootstrap_interval(values, resamples=6000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All draws at once would be 480 MB of indices alone, and as much again of counts.
    assert peak < 700e6


def test_paired_difference_equals_its_parts() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(60), rng.random(60) - 0.1
    found = paired_difference(a, b)
    interval = bootstrap_interval(a - b)
    assert (found.difference, found.low, found.high) == pytest.approx(interval)
    assert found.p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    swapped = paired_difference(b, a)
    assert swapped.difference == pytest.approx(-found.difference)
    assert swapped.p == pytest.approx(found.p)


def test_wilcoxon_by_hand() -> None:
    """Differences 1 … 6, all of one sign: the statistic is 0, p = 2 / 2**6 exactly."""
    found = paired_difference([1, 2, 3, 4, 5, 6], [0] * 6)
    assert found.p == pytest.approx(2 / 64)


def test_images_without_a_difference_do_not_count() -> None:
    """Wilcoxon's own way with zeros: the test on the others alone."""
    differences = np.array([1.0, -2, 3, 4, 5, -6, 7, 8])
    found = paired_difference([*differences, 0, 0, 0], np.zeros(11))
    # Ranks of the two negative differences are 2 and 6: exactly 50 of 256 sign patterns of eight
    # have a smaller rank sum of 8 or less, or of 28 or more.
    assert found.p == pytest.approx(50 / 256)
    assert found.p == pytest.approx(stats.wilcoxon(differences).pvalue)
    # Ranking the zeros too would have given another number, so this test can tell.
    ranked = stats.wilcoxon([*differences, 0, 0, 0], zero_method="pratt").pvalue
    assert abs(found.p - ranked) > 0.02
    assert found.difference == pytest.approx(20 / 11)


def test_methods_that_agree_on_every_image_do_not_differ() -> None:
    found = paired_difference([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, made to rise: .04 .06 .06 .06."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_seed_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(0).random((30, 4))
    plain, nested = bootstrap_interval(values), hierarchical_interval([values])
    for one, other in zip(plain, nested, strict=True):
        np.testing.assert_allclose(one, other)


def test_spread_between_seeds_widens_the_interval() -> None:
    """Images constant within a seed: only seeds vary, and two seeds give means 0, ½ and 1."""
    found = hierarchical_interval([np.zeros(50), np.ones(80)], resamples=4000)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (0.0, 1.0)


def test_hierarchical_variance_is_that_of_both_levels() -> None:
    """Five seeds of 40 images: the variance is between/5 plus about within/(5·40)."""
    rng = np.random.default_rng(2)
    groups = [rng.normal(mean, 1.0, 40) for mean in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    found = hierarchical_interval(groups, resamples=6000)
    between = np.var([group.mean() for group in groups]) / 5
    within = np.mean([group.var() for group in groups]) / 200
    expected = 2 * 1.96 * np.sqrt(between + within)
    assert found.high - found.low == pytest.approx(expected, rel=0.08)


def test_images_vary_where_seeds_do_not() -> None:
    """Three seeds of one mean: the variance is that of the images alone, within / (3·30)."""
    rng = np.random.default_rng(4)
    groups = [values - values.mean() for values in rng.normal(0, 1, (3, 30))]
    found = hierarchical_interval(groups, resamples=6000)
    expected = 2 * 1.96 * np.sqrt(np.mean([group.var() for group in groups]) / 90)
    assert found.high - found.low == pytest.approx(expected, rel=0.08)


def test_wilson_by_hand() -> None:
    """8 of 10: centre (8 + z²/2) / (10 + z²), half-width z·sqrt(1.6 + z²/4) / (10 + z²)."""
    z = 1.959963984540054
    centre, half = (8 + z * z / 2) / (10 + z * z), z * np.sqrt(1.6 + z * z / 4) / (10 + z * z)
    assert accuracy_interval(8, 10) == pytest.approx((0.8, centre - half, centre + half))


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], 3.0])
def test_unusable_values_are_refused(values: object) -> None:
    with pytest.raises(UserError, match="Expected `values`"):
        bootstrap_interval(values)


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(UserError, match="`level`"):
        bootstrap_interval([1.0, 2.0], level=95)
    with pytest.raises(UserError, match="`resamples`"):
        bootstrap_interval([1.0, 2.0], resamples=0)
    with pytest.raises(UserError, match="paired"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(UserError, match="`seeds`"):
        hierarchical_interval([])
    with pytest.raises(UserError, match="`correct`"):
        accuracy_interval(3, 2)


@pytest.mark.parametrize("number", [12, 50, 51, 400])
def test_wilcoxon_of_many_columns_is_that_of_each(number):
    rng = np.random.default_rng(number)
    columns = rng.normal(0.1, 1.0, (number, 6))
    columns[:, 1] = np.round(columns[:, 1])  # ties and zeros
    columns[:, 2] = 0.0  # nothing differs
    columns[: number // 2, 3] = 0.0
    found = wilcoxon_ps(columns)
    assert found[2] == 1.0
    for place in (0, 1, 3, 4, 5):
        expected = stats.wilcoxon(columns[:, place], zero_method="wilcox").pvalue
        assert found[place] == pytest.approx(expected, rel=1e-12)


def test_intervals_with_kept_draws_are_those_of_new_ones():
    rng = np.random.default_rng(0)
    for number in (7, 300, 300):
        values = rng.normal(size=number)
        drawn = np.random.default_rng(5).integers(0, number, size=(1000, number))
        expected = np.quantile(values[drawn].mean(1), [0.025, 0.975])
        found = bootstrap_interval(values, seed=5)
        np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
