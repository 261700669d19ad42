"""What holds for levels of any map and any fractions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from saliency_lab.evaluation.deletion.removal import area_under_curve, deletion_levels

SIDES = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
# Few different values make ties frequent.
VALUES = st.one_of(st.integers(-2, 3).map(float), st.floats(-5, 5, width=32))
MAPS = arrays.arrays(np.float32, SIDES, elements=VALUES).map(torch.from_numpy)
FRACTIONS = st.lists(st.floats(0, 1), min_size=1, max_size=10, unique=True).map(sorted).map(tuple)


def masks(maps: torch.Tensor, fractions: tuple[float, ...], protocol: str) -> torch.Tensor:
    """(F, B, N): whether each pixel is deleted at each fraction."""
    levels = deletion_levels(maps, fractions, protocol).flatten(1)
    assert levels.dtype == torch.uint8
    assert levels.max() <= len(fractions)
    return torch.stack([levels <= f for f in range(len(fractions))])


@given(MAPS, FRACTIONS)
def test_standard_deletes_exactly_the_rounded_count_of_the_highest(maps, fractions) -> None:
    gone, flat = masks(maps, fractions, "standard"), maps.flatten(1)
    for mask, fraction in zip(gone, fractions, strict=True):
        count = round(fraction * flat.shape[1])
        assert mask.sum(1).tolist() == [count] * len(maps)
        for row, values in zip(mask, flat, strict=True):
            if 0 < count < len(values):
                assert values[row].min() >= values[~row].max()
                # Of tied pixels those that come first go first.
                edge = row[values == values[row].min()].tolist()
                assert edge == sorted(edge, reverse=True)


@given(MAPS, FRACTIONS)
def test_thresholds_delete_what_is_above_them_and_never_a_tie(maps, fractions) -> None:
    gone, flat = masks(maps, fractions, "threshold"), maps.flatten(1)
    for mask, fraction in zip(gone, fractions, strict=True):
        count = round(fraction * flat.shape[1])
        assert (mask.sum(1) <= count).all()
        for row, values in zip(mask, flat, strict=True):
            place = min(count, len(values) - 1)
            threshold = sorted(values.tolist(), reverse=True)[place]
            assert torch.equal(row, values > threshold)


@pytest.mark.parametrize("protocol", ["threshold", "standard"])
@given(maps=MAPS, fractions=FRACTIONS)
def test_what_is_deleted_stays_deleted(protocol, maps, fractions) -> None:
    gone = masks(maps, fractions, protocol).int()
    assert (gone.diff(dim=0) >= 0).all()


@pytest.mark.parametrize("protocol", ["threshold", "standard"])
@given(maps=MAPS, fractions=FRACTIONS)
def test_any_rising_function_of_a_map_has_its_levels(protocol, maps, fractions) -> None:
    """Powers of two and float64 keep the order and every tie."""
    expected = deletion_levels(maps, fractions, protocol)
    assert torch.equal(deletion_levels(4 * maps, fractions, protocol), expected)
    cubed = maps.double() ** 3
    if all(len(c.unique()) == len(m.unique()) for c, m in zip(cubed, maps, strict=True)):
        assert torch.equal(deletion_levels(cubed, fractions, protocol), expected)


@given(FRACTIONS.filter(lambda f: len(f) > 1), st.data())
def test_the_area_is_between_those_of_the_lowest_and_the_highest_value(fractions, data) -> None:
    values = st.floats(0, 1)
    curve = data.draw(st.lists(values, min_size=len(fractions), max_size=len(fractions)))
    span = fractions[-1] - fractions[0]
    area = area_under_curve(torch.tensor(curve, dtype=torch.float64), fractions).item()
    assert min(curve) * span - 1e-9 <= area <= max(curve) * span + 1e-9
    assert area == pytest.approx(np.trapezoid(curve, fractions))
