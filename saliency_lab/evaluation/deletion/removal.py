"""Which pixels of a map are deleted at which fraction, by thresholds or by exact ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from saliency_lab.errors import UserError, unknown_choice

# Llorente, Boal, Sánchez-Úbeda, "A matter of attitude".
PAPER_FRACTIONS = (0.0, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of removed pixels of the protocol `threshold` (Llorente et al. 2023)."""
STANDARD_FRACTIONS = tuple(step / 20 for step in range(21))
"""Shares of removed pixels of the protocol `standard`: 0, 0.05, … 1."""

Protocol = Literal["threshold", "standard"]


def deletion_levels(
    maps: Tensor, fractions: Sequence[float] | None = None, protocol: Protocol = "threshold"
) -> Tensor:
    """The index of the first fraction at which each pixel is deleted; F where it never is.

    A pixel is deleted at fraction index f if and only if its level is <= f, so one sort per map
    serves all fractions, fills and modes.

    `threshold`: at fraction p the threshold t is the value at position round(p·H·W), counted from
    0, of the map sorted in descending order; a pixel goes where map > t and map ≠ 0, after the
    map is scaled to [0, 1]. Pixels that tie with the threshold stay, so fewer than p·H·W may go,
    and a constant map deletes nothing.
    `standard`: the round(p·H·W) highest pixels go, ties broken by index (row by row).
    `round` is Python's: halves go to the even neighbour.

    Args:
        maps: (B, H, W), floating, finite, higher is more important.
        fractions: strictly ascending in [0, 1], at most 255; None: the protocol's own.
        protocol: "threshold" or "standard".

    Returns:
        Levels (B, H, W), uint8.

    Raises:
        UserError: fractions out of order or range, an unknown protocol, maps of a wrong shape.

    Source: Llorente, Boal, Sánchez-Úbeda, "A matter of attitude", evaluation protocol; the
    standard one follows Petsiuk, Das, Saenko, "RISE", 2018, section 4.3.
    """
    fractions = checked_fractions(fractions, protocol)
    if maps.dim() != 3 or not maps.is_floating_point():
        raise UserError(
            f"Expected `maps` to be floating (B, H, W), but got {tuple(maps.shape)} of "
            f"{maps.dtype}."
        )
    flat = maps.detach().flatten(1)
    positions = [round(fraction * flat.shape[1]) for fraction in fractions]
    return _LEVELS[protocol](flat, positions).view(maps.shape)


def default_fractions(protocol: Protocol) -> tuple[float, ...]:
    """The fractions that a protocol is used with unless others are asked for."""
    if protocol not in _LEVELS:
        raise unknown_choice("protocol", protocol, _LEVELS)
    return PAPER_FRACTIONS if protocol == "threshold" else STANDARD_FRACTIONS


def checked_fractions(fractions: Sequence[float] | None, protocol: Protocol) -> tuple[float, ...]:
    """The fractions as a tuple, the protocol's own for None; a UserError if they are unusable."""
    chosen = default_fractions(protocol)
    if fractions is not None:
        chosen = tuple(float(fraction) for fraction in fractions)
    ascending = all(a < b for a, b in pairwise(chosen))
    if not (0 < len(chosen) <= 255 and ascending and chosen[0] >= 0 and chosen[-1] <= 1):
        raise UserError(
            "Expected `fractions` to be 1 to 255 strictly ascending numbers in [0, 1], "
            f"but got {list(chosen)}."
        )
    return chosen


def area_under_curve(curve: Tensor, fractions: Sequence[float]) -> Tensor:
    """The trapezoid under a curve over its fractions, not divided by their range.

    Over the paper's fractions a curve of ones gives 0.9.

    Args:
        curve: (..., F), bool or a number.
        fractions: F numbers, ascending.

    Returns:
        Areas (...), float64.

    Raises:
        UserError: a curve whose last dimension is not F.
    """
    curve = torch.as_tensor(curve)
    if curve.dim() == 0 or curve.shape[-1] != len(fractions):
        raise UserError(
            f"Expected `curve` to end in {len(fractions)} fractions, but got {tuple(curve.shape)}."
        )
    steps = torch.tensor(fractions, dtype=torch.float64, device=curve.device)
    return torch.trapezoid(curve.double(), steps, dim=-1)


def _threshold_levels(flat: Tensor, positions: list[int]) -> Tensor:
    # The protocol scales the map to [0, 1] first. Scaling keeps order, so map > t says the same
    # before and after, and it is not done: rounding could only create ties that were not there.
    # "map ≠ 0" after scaling means "above the minimum", which map > t implies, as no threshold is
    # below the minimum. Position H·W (p near 1) does not exist; the minimum stands in for it.
    ordered = _ascending(flat)
    last = flat.shape[1] - 1
    # The level is the number of thresholds, which descend, that the pixel does not exceed.
    levels = torch.zeros_like(flat, dtype=torch.uint8)
    for position in positions:
        threshold = ordered[:, last - min(position, last)]
        levels += (flat <= threshold[:, None]).view(torch.uint8)
    return levels


def _ascending(flat: Tensor) -> Tensor:
    """Rows sorted; on the CPU by NumPy, which sorts numbers without their places much faster."""
    if flat.device.type != "cpu" or flat.dtype not in (torch.float32, torch.float64):
        return flat.sort(dim=1).values
    return torch.from_numpy(np.sort(flat.numpy(), axis=1))


def _standard_levels(flat: Tensor, positions: list[int]) -> Tensor:
    order = flat.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(flat.shape[1])
    # Rank r is deleted from the first fraction on whose count exceeds r.
    level_of_rank = torch.searchsorted(torch.tensor(positions), ranks, right=True)
    level_of_rank = level_of_rank.to(device=flat.device, dtype=torch.uint8)
    levels = torch.empty_like(flat, dtype=torch.uint8)
    return levels.scatter_(1, order, level_of_rank.expand_as(levels))


_LEVELS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "threshold": _threshold_levels,
    "standard": _standard_levels,
}
