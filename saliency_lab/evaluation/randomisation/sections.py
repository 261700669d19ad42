"""Randomisation's part of the page: similarity from layer to layer, and maps going to noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saliency_lab.report.drawing.canvas import (
    INK,
    MUTED,
    in_rows,
    new_canvas,
    plain_axes,
    row_legend,
)
from saliency_lab.report.drawing.palette import Style, style_of
from saliency_lab.report.drawing.pictures import map_png
from saliency_lab.report.drawing.plots import Line, chart_svg

CURVES = "randomisation"
_SCORE = "spearman"
_PICTURED = 2
_TITLES = {
    "cascading": "from the output downwards",
    "bottom_up": "from the input upwards",
    "independent": "one group at a time",
}
_X_TITLE = "share of the layers, in steps"


def run_figures(tables: Mapping[str, pd.DataFrame], title: str) -> dict[str, Figure]:
    """The figures of one run, from the tables that the evaluator wrote."""
    curves = tables[CURVES]
    names = curves[["method", "view"]].drop_duplicates().itertuples(index=False, name=None)
    styles = {f"{method}/{view}": style_of(method, view) for method, view in names}
    points = curves.assign(key=curves["method"].astype(str) + "/" + curves["view"].astype(str))
    return {CURVES: layers_figure(points, styles, title)}


def panel_figures(panel: Any) -> dict[str, Callable[[], Figure]]:
    """What draws the figures of a panel."""
    styles = {one.key: one.style for one in panel.maps}
    return {CURVES: partial(layers_figure, layer_points(panel), styles, panel.title)}


def charts(panel: Any) -> list[dict[str, Any]]:
    """A chart of every map's rank correlation for each order and variant, as inline SVG."""
    points = layer_points(panel)
    styles = {one.key: one.style for one in panel.maps}
    drawn = []
    for (mode, variant), part in _parts(points):
        name = _title(mode, variant)
        svg = chart_svg(
            list(_lines(part, styles)),
            name=f"{panel.title}, layers randomised {name}: rank correlation with the intact map",
            x_title=_X_TITLE,
            percent_y=False,
        )
        drawn.append({"name": f"randomised {name}", "score": "rank correlation", "svg": svg})
    return drawn


def read_out(panel: Any) -> dict[str, Any]:
    """Nothing: the values of each step are in the run's table."""
    return {}


def pictures(panel: Any) -> list[dict[str, Any]]:
    """A row of small pictures for each map and image: intact, and after each cascading step."""
    points = layer_points(panel)
    found = []
    for one in panel.maps:
        steps = points[(points["key"] == one.key) & (points["mode"] == "cascading")]
        names = steps.drop_duplicates("step").sort_values("step")["layer"].astype(str).tolist()
        if not one.run.example_ids or not names:
            continue
        arrays = one.run.kept_examples(one.view)
        if "steps" not in arrays:
            continue
        for image in range(min(_PICTURED, len(arrays["steps"]))):
            intact = np.round(255 * arrays["map"][image].astype(np.float32)).astype(np.uint8)
            drawn = [intact, *arrays["steps"][image]]
            cells = [
                {"name": name, "png": map_png(values)}
                for name, values in zip(["intact", *names], drawn, strict=False)
            ]
            found.append({"key": one.key, "label": one.label, "cells": cells})
    return found


def layer_points(panel: Any) -> pd.DataFrame:
    """The curves over layers of all maps of a panel."""
    parts = []
    for run, method, view, key in panel.parts:
        curves = run.table(CURVES)
        mine = curves[(curves["method"] == method) & (curves["view"] == view)]
        parts.append(mine.assign(key=key))
    return pd.concat(parts, ignore_index=True)


def layers_figure(points: pd.DataFrame, styles: Mapping[str, Style], title: str) -> Figure:
    """Rank correlation with the intact map after each step, one column per order and variant.

    Up to seven maps are one row; more are spread over several.
    """
    parts, rows = list(_parts(points)), in_rows(list(styles))
    lowest = min(-0.1, points[f"{_SCORE}_low"].min())
    figure, axes = new_canvas(2.2 + 3.2 * len(parts), 0.6 + 2.6 * len(rows), len(rows), len(parts))
    for row, keys in enumerate(rows):
        shown = {key: styles[key] for key in keys}
        for column, ((mode, variant), part) in enumerate(parts):
            ax = axes[row, column]
            _draw_lines(ax, _lines(part, shown))
            ax.set(ylim=(lowest - 0.05, 1.05))
            if row == 0:
                name = f"randomised {_title(mode, variant)}"
                ax.set_title(name, fontsize=10, color=INK, loc="left")
            if row == len(rows) - 1:
                ax.set_xlabel(_X_TITLE, fontsize=9, color=MUTED)
            if column == 0:
                ax.set_ylabel("rank correlation", fontsize=9, color=MUTED)
        row_legend(axes[row, -1], axes[row])
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _draw_lines(ax: Axes, lines: Iterable[Line]) -> None:
    plain_axes(ax)
    ax.axhline(0, color="#999999", lw=0.6)
    for line in lines:
        colour = line.style.colour
        (drawn,) = ax.plot(
            line.x,
            line.y,
            color=colour,
            marker=line.style.marker,
            markersize=3.4,
            lw=1.4,
            label=line.style.label,
        )
        if line.style.dash:
            drawn.set_dashes(line.style.dash)
        if line.low is not None and line.high is not None:
            ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, lw=0)


def _parts(points: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for (mode, variant), part in points.groupby(["mode", "variant"], observed=True, sort=False):
        if mode in _TITLES:
            yield (str(mode), str(variant)), part


def _lines(part: pd.DataFrame, styles: Mapping[str, Style]) -> Iterator[Line]:
    """A line for each map; those of cumulative orders begin at the intact map, 1 at 0."""
    cumulative = part["mode"].iloc[0] != "independent"
    for key, style in styles.items():
        mine = part[part["key"] == key].sort_values("step")
        if mine.empty:
            continue
        x = (mine["step"] / mine["step"].max()).tolist()
        columns = [mine[name].tolist() for name in (_SCORE, f"{_SCORE}_low", f"{_SCORE}_high")]
        if cumulative:
            x, columns = [0.0, *x], [[1.0, *values] for values in columns]
        yield Line(key, style, x, columns[0], columns[1], columns[2])


def _title(mode: str, variant: str) -> str:
    return _TITLES[mode] + ("" if variant == "plain" else f", {variant}")
