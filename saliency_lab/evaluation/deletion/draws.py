"""A few fractions of each curve, drawn so that its area is right in expectation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saliency_lab.errors import UserError


def trapezoid_weights(fractions: Sequence[float]) -> Tensor:
    """What each fraction counts in the area under a curve: half the way to its neighbours, (F,)."""
    steps = torch.tensor(fractions, dtype=torch.float64).diff()
    nothing = steps.new_zeros(1)
    return (torch.cat([nothing, steps]) + torch.cat([steps, nothing])) / 2


def most_draws(fractions: Sequence[float]) -> int:
    """How many can be drawn of these fractions without one of them coming twice."""
    weights = trapezoid_weights(fractions)
    # What is 1/9 of a sum of tenths but for rounding is 1/9.
    return int(weights.sum() / weights.max() + 1e-9) if weights.max() > 0 else 0


def checked_draws(draws: int | None, fractions: Sequence[float]) -> int | None:
    """The number if as many can be drawn; a UserError otherwise."""
    most = most_draws(fractions)
    if draws is not None and not 0 < draws <= most:
        raise UserError(
            f"Expected `evaluator.deletion.draws` to be 1 to {most} for these {len(fractions)} "
            f"fractions (more would draw one of them twice), or null for all, but got {draws}."
        )
    return draws


def drawn_fractions(fractions: Sequence[float], draws: int, starts: Tensor) -> Tensor:
    """Which fractions are asked for: those at equal distances from a start, by their weights.

    The fractions share a line, each as long as its weight in the area L. With the points
    (j + start) · L / draws, j = 0 … draws − 1, on that line and a start uniform in [0, 1), a
    fraction is met as often, on average, as it is long: L times the mean of a curve at the points
    that were met is unbiased for the area under all of it, and never outside the area's range.

    Args:
        fractions: F of them, ascending.
        draws: at most `most_draws`.
        starts: (B,), in [0, 1).

    Returns:
        Indices (B, draws), int64, ascending, each at most once.

    Source: systematic sampling with probability proportional to size, Madow, "On the theory of
    systematic sampling, II", 1949.
    """
    ends = trapezoid_weights(fractions).cumsum(0).to(starts.device)
    points = (torch.arange(draws, device=starts.device) + starts.double()[:, None]) / draws
    return torch.searchsorted(ends[:-1], points * ends[-1], right=True)
