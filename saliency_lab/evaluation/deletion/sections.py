"""Deletion's part of the page and of a run's figures: curves over the share of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from saliency_lab.report.drawing.axes import AXES, axis_title
from saliency_lab.report.drawing.figures import condition_name, curves_figure
from saliency_lab.report.drawing.plots import chart_svg, lines_of

CURVES = "curves"


def run_figures(tables: Mapping[str, pd.DataFrame], title: str) -> dict[str, Figure]:
    """The figures of one run, from the tables that the evaluator wrote."""
    return {CURVES: curves_figure(tables[CURVES], title)}


def panel_figures(panel: Any) -> dict[str, Callable[[], Figure]]:
    """What draws the figures of a panel."""
    styles = {one.key: one.style for one in panel.maps}
    draw = partial(curves_figure, points_of(panel), panel.title, panel.curves_over, styles)
    return {CURVES: draw}


def charts(panel: Any) -> list[dict[str, Any]]:
    """A chart of every map's prediction agreement for each mode and fill, as inline SVG.

    `svgs` has it over each axis: the page shows one of them.
    """
    styles = {one.key: one.style for one in panel.maps}
    points = points_of(panel)
    drawn = []
    for mode, fill in panel.conditions:
        part = points[(points["mode"] == mode) & (points["fill"] == fill)]
        name = condition_name(mode, fill)
        svgs = {
            axis: chart_svg(
                lines_of(part, styles, axis),
                name=f"{panel.title}, {name}: allegiance against {axis_title(axis, mode)}; "
                "the values are in the table beside it",
                x_title=axis_title(axis, mode),
            )
            for axis in AXES
        }
        drawn.append({"name": name, "score": "allegiance", "svgs": svgs})
    return drawn


def read_out(panel: Any) -> dict[str, Any]:
    """What the page's read-out needs: value, low, high, deleted per map, condition, fraction."""
    values: dict[str, list[list[list[float] | None] | None]] = {}
    fractions = list(panel.found.facts["fractions"])
    shown = ["fraction", "allegiance", "low", "high", "deleted"]
    grouped = points_of(panel).sort_values("fraction").groupby(["key", "mode", "fill"])
    parts = {place: part[shown] for place, part in grouped}
    for one in panel.maps:
        values[one.key] = []
        for mode, fill in panel.conditions:
            part = parts.get((one.key, mode, fill))
            values[one.key].append(None if part is None else _at(part, fractions))
    return {
        "fractions": fractions,
        "values": values,
        "inserts": [mode == "insertion" for mode, _ in panel.conditions],
    }


def _at(part: pd.DataFrame, fractions: Sequence[float]) -> list[list[float] | None]:
    """A curve's numbers at each fraction; None at one that was drawn for none of the images."""
    numbers = part.drop(columns="fraction").round(4).to_numpy().tolist()
    known = dict(zip(part["fraction"].tolist(), numbers, strict=True))
    return [known.get(fraction) for fraction in fractions]


def points_of(panel: Any) -> pd.DataFrame:
    """The mean curves of all maps of a panel, each condition from the run that it is shown of.

    Made once for a panel; not to be written to.
    """
    if CURVES in panel.kept:
        return panel.kept[CURVES]
    taken: set[tuple[str, ...]] = set()
    parts = []
    for run, method, view, key in panel.parts:
        curves = run.table(CURVES)
        curves = curves[(curves["method"] == method) & (curves["view"] == view)]
        for (mode, fill), part in curves.groupby(["mode", "fill"], sort=False):
            if (key, mode, fill) not in taken:
                taken.add((key, mode, fill))
                parts.append(part.assign(key=key))
    return panel.kept.setdefault(CURVES, pd.concat(parts, ignore_index=True))
