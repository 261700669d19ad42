"""What holds for intervals and corrections whatever the numbers are."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from saliency_lab.evaluation.rows.intervals import (
    accuracy_interval,
    bootstrap_interval,
    seeds_interval,
)
from saliency_lab.evaluation.rows.significance import holm, paired_difference

P_VALUES = st.lists(st.floats(0, 1), max_size=8)
NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)
ROWS = arrays.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=NUMBERS)


def holm_by_definition(p_values: list[float]) -> list[float]:
    """The smallest level at which Holm's procedure rejects each hypothesis, tried level by level:
    in ascending order it rejects while p <= level / (number not yet rejected)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    levels = sorted({min(1.0, p * k) for p in p_values for k in range(1, len(p_values) + 1)})
    found = [1.0] * len(p_values)
    for level in reversed([*levels, 1.0]):
        for done, place in enumerate(order):
            if p_values[place] * (len(p_values) - done) > level:
                break
            found[place] = min(found[place], level)
    return found


@given(P_VALUES)
def test_holm_is_its_definition(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(holm_by_definition(p_values), abs=1e-12)


@given(P_VALUES.filter(lambda p: len(set(p)) == len(p) <= 5))
def test_holm_does_not_depend_on_the_order(p_values: list[float]) -> None:
    expected = dict(zip(p_values, holm(p_values), strict=True))
    for shuffled in permutations(p_values):
        assert dict(zip(shuffled, holm(shuffled), strict=True)) == expected


@given(P_VALUES)
def test_holm_is_between_the_p_values_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for p, found in zip(p_values, corrected, strict=True):
        assert p <= found <= min(1.0, p * len(p_values))
    ranked = [c for _, c in sorted(zip(p_values, corrected, strict=True))]
    assert ranked == sorted(ranked)


@given(ROWS, st.floats(0.5, 0.99), st.integers(0, 2**31))
def test_an_interval_lies_within_the_values_and_keeps_the_shape(rows, level, seed) -> None:
    found = bootstrap_interval(rows, level=level, resamples=40, seed=seed)
    assert np.shape(found.value) == np.shape(found.low) == np.shape(found.high) == rows.shape[1:]
    np.testing.assert_allclose(found.value, rows.mean(0), atol=1e-9)
    slack = 1e-9 + 1e-12 * np.abs(rows).max()
    assert (rows.min(0) - slack <= found.low).all()
    assert (found.low <= found.high).all()
    assert (found.high <= rows.max(0) + slack).all()


@given(ROWS, st.floats(-100, 100), st.floats(0.1, 10))
def test_an_interval_moves_and_stretches_with_the_values(rows, shift, scale) -> None:
    plain = bootstrap_interval(rows, resamples=40)
    moved = bootstrap_interval(scale * rows + shift, resamples=40)
    for one, other in zip(plain, moved, strict=True):
        np.testing.assert_allclose(scale * np.asarray(one) + shift, other, rtol=1e-6, atol=1e-6)


@given(ROWS)
def test_a_higher_level_is_a_wider_interval(rows) -> None:
    narrow, wide = (bootstrap_interval(rows, level=level, resamples=40) for level in (0.5, 0.9))
    assert (wide.low <= narrow.low).all()
    assert (narrow.high <= wide.high).all()


@settings(max_examples=15)  # Wilcoxon's p is exact for so few, which takes a while with ties
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_a_difference_the_other_way_round_is_its_mirror(pairs) -> None:
    a, b = np.array(pairs).T
    found, mirrored = (paired_difference(*way, resamples=40) for way in ((a, b), (b, a)))
    assert mirrored.difference == pytest.approx(-found.difference, abs=1e-9)
    assert mirrored.low == pytest.approx(-found.high, abs=1e-9)
    assert mirrored.high == pytest.approx(-found.low, abs=1e-9)
    assert mirrored.p == pytest.approx(found.p, abs=1e-9)
    assert 0 <= found.p <= 1


@given(st.lists(arrays.arrays(np.float64, st.integers(1, 6), elements=NUMBERS), min_size=1,
                max_size=4))  # fmt: skip
def test_every_seed_counts_the_same_in_the_mean_of_several(groups) -> None:
    found = seeds_interval(groups, images=None, resamples=30)
    assert found.value == pytest.approx(np.mean([group.mean() for group in groups]), abs=1e-9)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(counts) -> None:
    """The bounds are the shares p for which (p̂ − p)² = z² p(1 − p) / n."""
    correct, total = counts
    found = accuracy_interval(correct, total)
    assert found.value == correct / total
    assert 0 <= found.low <= found.value <= found.high <= 1
    for bound in (found.low, found.high):
        left = (found.value - bound) ** 2
        assert left == pytest.approx(1.959963984540054**2 * bound * (1 - bound) / total, abs=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_coverage_follows_the_level(level: float) -> None:
    """Means of 60 normal numbers: the interval holds the truth about as often as its level says."""
    rng = np.random.default_rng(11)
    values = rng.normal(3.0, 2.0, (60, 400))
    found = bootstrap_interval(values, level=level, resamples=400)
    hits = ((found.low <= 3.0) & (found.high >= 3.0)).mean()
    assert hits == pytest.approx(level, abs=0.07)
