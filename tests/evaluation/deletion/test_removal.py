"""Levels by hand, by the paper's words taken literally in float64, and areas in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.removal import (
    PAPER_FRACTIONS,
    STANDARD_FRACTIONS,
    area_under_curve,
    default_fractions,
    deletion_levels,
)

# Sixteen distinct values; 16 is the most important pixel.
DISTINCT = [[16.0, 15.0, 14.0, 13.0], [12, 11, 10, 9], [8, 7, 6, 5], [4, 3, 2, 1]]
# Three 5s, two 4s, five 2s, six 0s.
TIED = [[5.0, 5.0, 5.0, 4.0], [4, 2, 2, 2], [2, 2, 0, 0], [0, 0, 0, 0]]


def deleted(levels: Tensor, fractions: tuple[float, ...]) -> list[int]:
    """How many pixels of the first map are deleted at each fraction."""
    return [int((levels[0] <= f).sum()) for f in range(len(fractions))]


def literal_paper_masks(saliency: Tensor, fractions: tuple[float, ...]) -> Tensor:
    """The paper's protocol word for word: scale to [0, 1], sort, compare; (F, H, W) bool."""
    low, high = saliency.min().item(), saliency.max().item()
    height, width = saliency.shape
    scaled = [
        [(v - low) / (high - low) if high > low else 0.0 for v in row]
        for row in saliency.double().tolist()
    ]
    ordered = sorted((v for row in scaled for v in row), reverse=True)
    masks = torch.zeros(len(fractions), height, width, dtype=torch.bool)
    for f, p in enumerate(fractions):
        t = ordered[min(round(p * height * width), height * width - 1)]
        for i in range(height):
            for j in range(width):
                masks[f, i, j] = scaled[i][j] > t and scaled[i][j] != 0
    return masks


def test_fractions_are_those_of_the_protocols() -> None:
    tenths = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert (0.0, 0.03, 0.05, 0.07, *tenths) == PAPER_FRACTIONS
    assert STANDARD_FRACTIONS[:4] == (0.0, 0.05, 0.1, 0.15)
    assert STANDARD_FRACTIONS[-1] == 1.0
    assert len(STANDARD_FRACTIONS) == 21
    assert default_fractions("threshold") == PAPER_FRACTIONS
    assert default_fractions("standard") == STANDARD_FRACTIONS


def test_paper_protocol_by_hand_without_ties() -> None:
    """round(16 p) for the thirteen fractions: 0, .48, .8, 1.12, 1.6, 3.2, 4.8, 6.4, 8, ..."""
    levels = deletion_levels(torch.tensor([DISTINCT]), PAPER_FRACTIONS)
    assert deleted(levels, PAPER_FRACTIONS) == [0, 0, 1, 1, 2, 3, 5, 6, 8, 10, 11, 13, 14]
    assert levels.tolist() == [[[2, 4, 5, 6], [6, 7, 8, 8], [9, 9, 10, 11], [11, 12, 13, 13]]]
    assert levels.dtype == torch.uint8


def test_paper_protocol_by_hand_with_ties() -> None:
    """Positions 0, 0, 1, 1, 2, 3, 5, 6, 8, 10, 11, 13, 14 hold 5 5 5 5 5 4 2 2 2 0 0 0 0."""
    levels = deletion_levels(torch.tensor([TIED]), PAPER_FRACTIONS)
    assert deleted(levels, PAPER_FRACTIONS) == [0, 0, 0, 0, 0, 3, 5, 5, 5, 10, 10, 10, 10]
    assert levels.tolist() == [[[5, 5, 5, 6], [6, 9, 9, 9], [9, 9, 13, 13], [13, 13, 13, 13]]]


def test_standard_protocol_by_hand_with_ties() -> None:
    """Quarters of sixteen pixels; the tie of 2s at rank 8 is cut after its third pixel."""
    fractions = (0.0, 0.25, 0.5, 0.75, 1.0)
    levels = deletion_levels(torch.tensor([TIED]), fractions, "standard")
    assert levels.tolist() == [[[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3], [4, 4, 4, 4]]]


def test_many_ties_go_row_by_row() -> None:
    """Also where there are so many that an unstable sort would shuffle them."""
    levels = deletion_levels(torch.ones(1, 20, 20), (0.25, 0.5, 1.0), "standard")
    assert levels.flatten().tolist() == [0] * 100 + [1] * 100 + [2] * 200


def test_standard_protocol_follows_the_values_not_the_place() -> None:
    levels = deletion_levels(torch.tensor([[[1.0, 3.0], [2.0, 3.0]]]), (0.25, 0.5, 1), "standard")
    assert levels.tolist() == [[[2, 0], [2, 1]]]


def test_standard_deletes_the_exact_count_even_of_a_constant_map() -> None:
    levels = deletion_levels(torch.ones(1, 7, 9), protocol="standard")
    expected = [round(p * 63) for p in STANDARD_FRACTIONS]
    assert deleted(levels, STANDARD_FRACTIONS) == expected


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_a_constant_map_deletes_nothing_by_the_paper(value: float) -> None:
    levels = deletion_levels(torch.full((2, 4, 5), value))
    assert bool((levels == len(PAPER_FRACTIONS)).all())


@pytest.mark.parametrize("shape", [(4, 4), (1, 1), (1, 9), (7, 12)])
@pytest.mark.parametrize("kind", ["distinct", "ties", "sparse", "shifted"])
def test_paper_protocol_equals_its_words(shape: tuple[int, int], kind: str) -> None:
    rng = torch.Generator().manual_seed(sum(shape))
    maps = torch.rand(3, *shape, generator=rng, dtype=torch.float64)
    if kind == "ties":
        maps = (maps * 4).floor()
    elif kind == "sparse":
        maps = maps * (maps > 0.8)
    elif kind == "shifted":
        maps = maps - 5
    levels = deletion_levels(maps, PAPER_FRACTIONS)
    for row in range(3):
        expected = literal_paper_masks(maps[row], PAPER_FRACTIONS)
        for f in range(len(PAPER_FRACTIONS)):
            assert torch.equal(levels[row] <= f, expected[f])


def test_values_that_scaling_would_merge_stay_apart() -> None:
    """Neighbouring float32 numbers under a large maximum: one is above the threshold, one at it."""
    upper = torch.nextafter(torch.tensor(1e-3), torch.tensor(1.0)).item()
    maps = torch.tensor([[[1e6, upper], [1e-3, 0.0]]])
    assert (deletion_levels(maps, (0.5,)) <= 0).tolist() == [[[True, True], [False, False]]]


def test_the_whole_image_by_the_paper_is_all_above_the_minimum() -> None:
    levels = deletion_levels(torch.tensor([TIED]), (0.0, 1.0))
    assert deleted(levels, (0.0, 1.0)) == [0, 10]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("protocol", ["threshold", "standard"])
def test_dtype_does_not_matter(dtype: torch.dtype, protocol: str) -> None:
    maps = torch.randint(0, 50, (2, 6, 5)).float()
    expected = deletion_levels(maps, protocol=protocol)
    assert torch.equal(deletion_levels(maps.to(dtype), protocol=protocol), expected)


@pytest.mark.parametrize("protocol", ["threshold", "standard"])
def test_a_map_does_not_depend_on_its_batch(protocol: str) -> None:
    maps = torch.rand(4, 8, 5)
    together = deletion_levels(maps, protocol=protocol)
    for row in range(4):
        alone = deletion_levels(maps[row : row + 1], protocol=protocol)
        assert torch.equal(alone[0], together[row])


def test_halves_round_to_even() -> None:
    """p·N = 0.5, 1.5 and 2.5 of two, and ten pixels: positions 0, 2 and 2."""
    ten = torch.arange(10.0, 0, -1).view(1, 2, 5)
    levels = deletion_levels(ten, (0.05, 0.15, 0.25), "standard")
    assert deleted(levels, (0.05, 0.15, 0.25)) == [0, 2, 2]


@pytest.mark.parametrize(
    "fractions", [(), (0.2, 0.1), (0.1, 0.1), (-0.1, 0.5), (0.5, 1.1), tuple(range(300))]
)
def test_unusable_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="Expected `fractions`"):
        deletion_levels(torch.rand(1, 2, 2), fractions)


def test_unknown_protocol_and_wrong_shape_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'standard'"):
        deletion_levels(torch.rand(1, 2, 2), protocol="standrad")
    with pytest.raises(UserError, match="Expected `maps`"):
        deletion_levels(torch.rand(2, 2))


def test_areas() -> None:
    ones = torch.ones(2, 13, dtype=torch.bool)
    assert area_under_curve(ones, PAPER_FRACTIONS).tolist() == pytest.approx([0.9, 0.9])
    line = 1 - torch.tensor(PAPER_FRACTIONS)
    assert area_under_curve(line, PAPER_FRACTIONS).item() == pytest.approx(0.9 - 0.81 / 2)
    step = torch.tensor([1.0] + [0.0] * 12)
    assert area_under_curve(step, PAPER_FRACTIONS).item() == pytest.approx(0.015)
    assert area_under_curve(torch.ones(4, 5, 21), STANDARD_FRACTIONS).shape == (4, 5)
    with pytest.raises(UserError, match="13 fractions"):
        area_under_curve(torch.ones(12), PAPER_FRACTIONS)
