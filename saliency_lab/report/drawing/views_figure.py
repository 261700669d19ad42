"""One figure of every source and view: which view helps which source, and what a control gives."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from saliency_lab.report.drawing.palette import VIEWS, style_of

_INK, _GREY = "#1f2328", "#c9ccd1"


def views_figure(areas: pd.DataFrame, title: str, score: str) -> Figure:
    """A score with its intervals: a row per method, a mark per view, a panel per condition.

    Methods lie in the order of their best view, the best at the top; the dashed line is the best
    control, on whose better side a map says more than one that has not seen the model.

    Args:
        areas: one row per map and condition: method, view, condition, better ("higher" or
            "lower"), value, low, high, control (bool).
        title: above the panels.
        score: what is shown, below each panel.

    Raises:
        ValueError: the table is empty.
    """
    if areas.empty:
        raise ValueError("Expected `areas` to have rows, but got an empty table.")
    conditions = list(dict.fromkeys(areas["condition"]))
    rows = areas["method"].nunique()
    size = (3.2 + 3.0 * len(conditions), 1.4 + 0.27 * rows)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(conditions), squeeze=False)[0]
    for ax, condition in zip(axes, conditions, strict=True):
        shown = areas[areas["condition"] == condition]
        _draw(ax, shown, score, smaller_is_better=shown["better"].iloc[0] == "lower")
        ax.set_title(condition, fontsize=10, color=_INK, loc="left")
    figure.suptitle(title, fontsize=11, color=_INK, x=0.01, ha="left", fontweight="bold")
    views = [view for view in VIEWS if view in set(areas["view"])]
    marks = [
        axes[0].plot([], [], ls="", marker=style_of("gradient", v).marker, label=v,
                     color=style_of("gradient", v).colour)[0]
        for v in views
    ]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower left", ncols=len(views), frameon=False,
                  fontsize=9)  # fmt: skip
    return figure


def _draw(ax: Axes, areas: pd.DataFrame, score: str, *, smaller_is_better: bool) -> None:
    grouped = areas.groupby("method")["value"]
    order = (grouped.min() if smaller_is_better else -grouped.max()).sort_values().index[::-1]
    place = {method: row for row, method in enumerate(order)}
    for row in areas.itertuples():
        style = style_of("gradient", str(row.view))
        at = place[row.method]
        ax.plot([row.low, row.high], [at, at], color=style.colour, lw=1.4, alpha=0.6)
        ax.plot(row.value, at, marker=style.marker, color=style.colour, ms=5.5, ls="")
    controls = areas[areas["control"]]
    if not controls.empty:
        best = controls["value"].min() if smaller_is_better else controls["value"].max()
        ax.axvline(best, color=_INK, lw=1, ls=(0, (4, 3)))
    known = set(controls["method"])
    names = [f"{m.replace('_', ' ')}{' (control)' if m in known else ''}" for m in order]
    ax.set_yticks(range(len(order)), names, fontsize=8, color=_INK)
    ax.set_xlabel(score, fontsize=8, color=_INK)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color=_GREY, lw=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
