"""Intervals against SciPy and their nominal coverage; corrections against worked examples."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.intervals import (
    accuracy_interval,
    accuracy_over_seeds,
    bootstrap_interval,
    seeds_interval,
    student_interval,
)
from saliency_lab.evaluation.rows.significance import (
    holm,
    is_significant,
    mean_ps,
    paired_difference,
    wilcoxon_p,
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


@pytest.mark.parametrize(("number", "least"), [(5, 0.88), (10, 0.92), (20, 0.93)])
def test_few_images_are_covered_as_said(number: int, least: float) -> None:
    """Skewed values between 0 and 1, as areas are; plain percentiles: 0.83, 0.90, 0.92."""
    rng = np.random.default_rng(3)
    samples = rng.beta(1.5, 3, (2000, number))
    hits = [
        interval.low <= 1 / 3 <= interval.high
        for interval in (bootstrap_interval(values, resamples=400) for values in samples)
    ]
    assert least <= np.mean(hits) <= 0.97


@pytest.mark.parametrize("number", [2, 7, 40])
def test_of_normal_means_the_ends_are_students(number: int) -> None:
    """Of means spread like the normal, the tails are those of Student's interval."""
    tail = stats.norm.cdf(np.sqrt(number / (number - 1)) * stats.t.ppf(0.025, number - 1))
    values = np.random.default_rng(1).normal(size=number)
    means = np.random.default_rng(42).choice(values, (1000, number)).mean(1)
    found = bootstrap_interval(values)
    assert found.low == pytest.approx(np.quantile(means, tail), abs=1e-12)
    assert found.high == pytest.approx(np.quantile(means, 1 - tail), abs=1e-12)


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


@pytest.mark.parametrize("images", [[range(30)], None])
def test_one_seed_is_the_plain_bootstrap(images: list[range] | None) -> None:
    values = np.random.default_rng(0).random((30, 4))
    plain, found = bootstrap_interval(values), seeds_interval([values], images=images)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_allclose(one, other)


def test_seeds_alone_give_students_interval_of_their_means() -> None:
    """Images are equal within a seed: ½ ± t₀.₉₇₅(1)·√½/√2, and t of one degree is tan(0.475π)."""
    found = seeds_interval([np.zeros(50), np.ones(80)], images=None)
    half = np.tan(0.475 * np.pi) * 0.5
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_images_alone_give_students_interval_of_the_images() -> None:
    """Seeds that agree on every image say no more about images than one of them does."""
    values = np.random.default_rng(4).normal(0, 1, (40, 3))
    found = seeds_interval([values, values, values], images=[range(40)] * 3)
    for one, other in zip(found, student_interval(values), strict=True):
        np.testing.assert_allclose(one, other)


def test_intervals_over_seeds_end_where_values_do() -> None:
    groups = [np.full((4, 2), value) for value in (0.1, 0.8)]
    found = seeds_interval(groups, images=[range(4)] * 2, lowest=0.0, highest=0.9)
    np.testing.assert_allclose(found.low, [0.0, 0.0])
    np.testing.assert_allclose(found.high, [0.9, 0.9])
    equal = [[0.9] * 3, [0.9] * 3]
    full = seeds_interval(equal, images=[range(3)] * 2, lowest=0.0, highest=0.9)
    assert full == pytest.approx((0.9, 0.9, 0.9))
    assert accuracy_over_seeds([0.1, 0.9], 50)[1:] == (0.0, 1.0)


@pytest.mark.parametrize("images", [[range(25)] * 3, None])
def test_half_widths_add_as_squares(images: list[range] | None) -> None:
    groups = np.random.default_rng(7).normal(0, 1, (3, 25)) + np.array([[0.1], [0.4], [0.2]])
    found = seeds_interval(list(groups), images=images)
    of_seeds = 4.302652729911275 * groups.mean(1).std(ddof=1) / np.sqrt(3)
    t = 2.0638985616280205
    averaged = t * groups.mean(0).std(ddof=1) / 5
    apart = t * np.sqrt(np.mean([group.var(ddof=1) for group in groups]) / 3) / 5
    expected = np.hypot(of_seeds, averaged if images else apart)
    assert found.high - found.value == pytest.approx(expected)
    assert found.value - found.low == pytest.approx(expected)


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize(("of_seed", "of_image"), [(1.0, 0.2), (0.1, 1.0)])
def test_intervals_over_seeds_hold_the_mean_as_often_as_they_say(
    number: int, of_seed: float, of_image: float
) -> None:
    """2,000 times seeds and images drawn anew; three standard errors below 0.95 is 0.935."""
    rng = np.random.default_rng(11)
    seeds = rng.normal(0, of_seed, (number, 1, 2000))
    images = rng.normal(0, of_image, (1, 40, 2000))
    values = seeds + images + rng.normal(0, 0.2, (number, 40, 2000))
    found = seeds_interval(list(values), images=[range(40)] * number)
    assert np.mean((found.low <= 0) & (found.high >= 0)) > 0.935


@pytest.mark.parametrize("missing", [0, 1, 20, 40])
def test_intervals_over_seeds_hold_whichever_images_are_shared(missing: int) -> None:
    """Of 80 images the seeds have 40 to 80 each, drawn anew: what they share is no new evidence.

    1,000 times; three standard errors below 0.95 is 0.929. Taken for images of its own, each seed's
    would give intervals that hold the mean in 0.7 of them.
    """
    rng = np.random.default_rng(12)
    held = 0
    for _ in range(1000):
        of_image = rng.normal(0, 0.3, 80)
        names = [np.sort(rng.permutation(80)[: 80 - missing]) for _ in range(5)]
        seeds = [
            rng.normal(0, 0.005) + of_image[its] + rng.normal(0, 0.1, len(its)) for its in names
        ]
        found = seeds_interval(seeds, images=[its.tolist() for its in names])
        held += bool(found.low <= 0 <= found.high)
    assert held > 929


def test_images_that_no_seeds_share_count_as_they_would_without_names() -> None:
    groups = list(np.random.default_rng(9).normal(0, 1, (4, 500)))
    apart = seeds_interval(groups, images=[range(500 * at, 500 * at + 500) for at in range(4)])
    assert apart == pytest.approx(seeds_interval(groups, images=None), rel=0.01)


def test_accuracies_of_several_seeds() -> None:
    """0.69 and 0.71 of 100: t·0.01 of the seeds, Wilson's of 70 of 100 images."""
    seeds, images = np.tan(0.475 * np.pi) * 0.01, accuracy_interval(70, 100)
    low = 0.7 - np.hypot(seeds, 0.7 - images.low)
    high = 0.7 + np.hypot(seeds, images.high - 0.7)
    assert accuracy_over_seeds([0.69, 0.71], 100) == pytest.approx((0.7, low, high))
    assert accuracy_over_seeds([0.8], 10) == accuracy_interval(8, 10)


@pytest.mark.parametrize("right", [0, 37, 100])
def test_equal_accuracies_are_as_sure_as_one(right: int) -> None:
    found = accuracy_over_seeds([right / 100] * 3, 100)
    assert found == pytest.approx(accuracy_interval(right, 100), abs=1e-12)


def test_a_difference_is_one_where_interval_and_p_say_so() -> None:
    assert is_significant(0.1, 0.3, 0.01)
    assert is_significant(-0.3, -0.1, 0.01)
    assert not is_significant(-0.1, 0.3, 0.01)
    assert not is_significant(0.1, 0.3, 0.05)


def test_students_interval_by_hand() -> None:
    """1, 2, 3: the mean 2, the deviation 1, t of two degrees 4.30265."""
    half = 4.302652729911275 / np.sqrt(3)
    assert student_interval([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - half, 2 + half))
    assert student_interval([0.7]) == (0.7, 0.7, 0.7)


def test_ps_of_means_are_those_of_students_test() -> None:
    columns = np.random.default_rng(5).exponential(1.0, (30, 4)) - [0.5, 1.0, 1.2, 3.0]
    expected = stats.ttest_1samp(columns, 0).pvalue
    np.testing.assert_allclose(mean_ps(columns), expected, rtol=1e-12)
    # Equal differences have no spread; how many there are is what they say.
    assert mean_ps(np.array([[0.0, 0.3], [0.0, 0.3]])) == [1.0, 0.5]
    assert mean_ps(np.full((11, 1), -0.25)) == [stats.binomtest(0, 11).pvalue]
    assert mean_ps(np.array([[0.4]])) == [1.0]
    # Equal values whose mean is rounded, and values that are equal but for rounding:
    assert mean_ps(np.full((3, 2), [0.1, 0.7])) == [0.25, 0.25]
    assert mean_ps(np.array([[0.3], [0.1 + 0.2], [0.3]])) == [0.25]


def test_skewed_differences_of_mean_zero_are_not_told_apart_by_their_mean() -> None:
    """Wilcoxon's test says no to four in five of these, the test of the mean to one in twenty."""
    drawn = np.random.default_rng(6).exponential(1.0, (100, 400)) - 1.0
    assert np.mean([wilcoxon_p(column) < 0.05 for column in drawn.T]) > 0.3
    assert np.mean(np.array(mean_ps(drawn)) < 0.05) < 0.1


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
        seeds_interval([], images=None)
    with pytest.raises(UserError, match="`seeds`"):
        seeds_interval([[1.0, 2.0], [1.0]], images=[range(2), range(2)])
    with pytest.raises(UserError, match="a name for each"):
        seeds_interval([[1.0, 2.0], [1.0, 3.0]], images=[["a", "b"], ["a", "a"]])
    with pytest.raises(UserError, match="`level`"):
        seeds_interval([[1.0, 2.0], [1.0, 3.0]], images=None, level=95)
    with pytest.raises(UserError, match="`accuracies`"):
        accuracy_over_seeds([0.5, 1.2], 10)
    with pytest.raises(UserError, match="`accuracies`"):
        accuracy_over_seeds([0.5, 0.6], 0)
    with pytest.raises(UserError, match="`correct`"):
        accuracy_interval(3, 2)


def test_names_of_images_may_be_an_array() -> None:
    values, names = np.array([[0.1, 0.2], [0.3, 0.5]]), [["a", "b"], ["a", "b"]]
    expected = seeds_interval(values, images=names)
    assert seeds_interval(values, images=np.array(names)) == expected
    assert expected != seeds_interval(values, images=None)


def test_intervals_with_kept_draws_are_those_of_new_ones():
    rng = np.random.default_rng(0)
    for number in (7, 300, 300):
        values = rng.normal(size=number)
        drawn = np.random.default_rng(5).integers(0, number, size=(1000, number))
        tail = stats.norm.cdf(np.sqrt(number / (number - 1)) * stats.t.ppf(0.025, number - 1))
        expected = np.quantile(values[drawn].mean(1), [tail, 1 - tail])
        found = bootstrap_interval(values, seed=5)
        np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
