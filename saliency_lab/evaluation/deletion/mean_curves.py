"""Curves of several maps over the same images, with bands and areas: the face for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.removal import (
    PAPER_FRACTIONS,
    STANDARD_FRACTIONS,
    area_under_curve,
    checked_fractions,
)
from saliency_lab.evaluation.rows.intervals import Interval, bootstrap_interval
from saliency_lab.explanation import named_method
from saliency_lab.inputs import given_tensor


@dataclass(frozen=True, repr=False)
class Curves:
    """Mean curves with bands; a notebook draws them.

    `points` has a row per map and fraction (method, view, mode, fill, fraction, allegiance, low,
    high), `areas` a row per map (map, area, low, high). `allegiance` is the prediction agreement.
    """

    points: pd.DataFrame
    areas: pd.DataFrame
    title: str

    def __repr__(self) -> str:
        return f"{self.title}\n{self.areas.to_string(index=False)}"

    def _repr_png_(self) -> bytes:
        from saliency_lab.report.drawing.figures import curves_figure, figure_bytes

        return figure_bytes(curves_figure(self.points, self.title), dpi=80)


def curves(
    agreements: Mapping[str, Tensor],
    fractions: Sequence[float] | None = None,
    *,
    fill: str = "black",
    mode: str = "deletion",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 42,
    title: str = "Prediction agreement",
) -> Curves:
    """Mean curves of several maps with bootstrap bands over images, and the areas under them.

    Args:
        agreements: name of a map, as in `sl.explain`, to what `sl.deletion_curve` gave for it:
            (B, F), bool or in [0, 1], of the same B images for every map; tensors or arrays.
        fractions: the F fractions; None: the paper's or the standard protocol's, by their number.
        fill, mode: what the curves were made with, for the figure.
        level, resamples, seed: see `bootstrap_interval`; bands are pointwise.
        title: above the figure.

    Returns:
        `points`, `areas` and, in a notebook, the figure.

    Raises:
        UserError: no map, maps of different shapes, or a number of fractions that does not fit.
    """
    given = {
        name: given_tensor(agreement, f"agreements[{name!r}]", "(images, fractions)")
        for name, agreement in agreements.items()
    }
    shapes = {tuple(agreement.shape) for agreement in given.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise UserError(
            "Expected `agreements` to be of one shape (images, fractions), but got "
            f"{sorted(shapes) or 'none'}."
        )
    (_, count), *_ = shapes
    steps = _fractions(count) if fractions is None else checked_fractions(fractions, "standard")
    if len(steps) != count:
        raise UserError(
            f"Expected `fractions` to be {count}, as many as the curves have points, but got "
            f"{len(steps)}."
        )
    points, areas = [], []
    for name, agreement in given.items():
        method, view = _method_and_view(name)
        values = agreement.detach().double().cpu()
        band = bootstrap_interval(values.numpy(), level=level, resamples=resamples, seed=seed)
        points.append(
            pd.DataFrame(
                {"method": method, "view": view, "mode": mode, "fill": fill, "fraction": steps,
                 "allegiance": band.value, "low": band.low, "high": band.high}
            )
        )  # fmt: skip
        area: Interval = bootstrap_interval(
            area_under_curve(values, steps).numpy(), level=level, resamples=resamples, seed=seed
        )
        areas.append({"map": name, "area": area.value, "low": area.low, "high": area.high})
    return Curves(pd.concat(points, ignore_index=True), pd.DataFrame(areas), title)


def _fractions(count: int) -> Sequence[float]:
    for known in (PAPER_FRACTIONS, STANDARD_FRACTIONS):
        if len(known) == count:
            return known
    raise UserError(f"Expected `fractions` for curves of {count} points, but got none.")


def _method_and_view(name: str) -> tuple[str, str]:
    method, slash, view = name.partition("/")
    try:
        source, views = named_method(method)
    except UserError:
        return name, "original"  # a function of one's own
    return source, view if slash else views[0]
