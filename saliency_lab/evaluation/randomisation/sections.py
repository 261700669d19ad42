"""Randomisation's part of the page: similarity from layer to layer, and maps going to noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
            name=f"{panel.title}, layers drawn anew {name}: rank correlation with the intact map",
            x_title=_X_TITLE,
            percent_y=False,
        )
        drawn.append({"name": f"drawn anew {name}", "score": "rank correlation", "svg": svg})
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
    """Rank correlation with the intact map after each step, one column per order and variant."""
    parts = list(_parts(points))
    figure = Figure(figsize=(2.2 + 3.2 * len(parts), 3.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(parts), squeeze=False, sharey=True)
    for ax, ((mode, variant), part) in zip(axes[0], parts, strict=True):
        for line in _lines(part, styles):
            ax.plot(line.x, line.y, color=line.style.colour, label=line.style.label, lw=1.4)
            if line.low is not None and line.high is not None:
                ax.fill_between(line.x, line.low, line.high, color=line.style.colour, alpha=0.15)
        ax.axhline(0, color="#999999", lw=0.6)
        ax.set_title(f"drawn anew {_title(mode, variant)}", fontsize=10, loc="left")
        ax.set_xlabel(_X_TITLE)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("rank correlation with the intact map")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


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
