"""One figure of every source and view: which view helps which source, and what a control gives."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from saliency_lab.report.drawing.palette import VIEWS, style_of

_INK, _GREY = "#1f2328", "#c9ccd1"
_BEST = "best control"


def views_figure(areas: pd.DataFrame, title: str, score: str) -> Figure:
    """A score with its intervals: a row per method, a mark per view, a panel per condition.

    Methods lie in the order of their best view, the best at the top; the dashed line is the best
    blind control, on whose better side a map says more than one that has not seen the model. A
    score without a better side has neither: methods lie as they are listed.

    Args:
        areas: one row per map and condition: method, view, condition, better ("higher", "lower"
            or None), value, low, high, control (bool), blind (bool, of a control that has not
            seen the model).
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
        _draw(ax, shown, score)
        ax.set_title(condition, fontsize=10, color=_INK, loc="left")
    figure.suptitle(title, fontsize=11, color=_INK, x=0.01, ha="left", fontweight="bold")
    views = [view for view in VIEWS if view in set(areas["view"])]
    marks = [
        axes[0].plot([], [], ls="", marker=style_of("gradient", v).marker, label=v,
                     color=style_of("gradient", v).colour)[0]
        for v in views
    ]  # fmt: skip
    lines = [line for ax in axes for line in ax.lines if line.get_label() == _BEST]
    handles = [*marks, *lines[:1]]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False,
                  fontsize=9)  # fmt: skip
    return figure


def _draw(ax: Axes, areas: pd.DataFrame, score: str) -> None:
    better = areas["better"].iloc[0]
    order = _from_below(areas, better)
    place = {method: row for row, method in enumerate(order)}
    for row in areas.itertuples():
        style = style_of("gradient", str(row.view))
        at = place[row.method]
        ax.plot([row.low, row.high], [at, at], color=style.colour, lw=1.4, alpha=0.6)
        ax.plot(row.value, at, marker=style.marker, color=style.colour, ms=5.5, ls="")
    blind = areas.loc[areas["blind"], "value"]
    if better is not None and not blind.empty:
        best = blind.min() if better == "lower" else blind.max()
        ax.axvline(best, color=_INK, lw=1, ls=(0, (4, 3)), label=_BEST)
    known = set(areas.loc[areas["control"], "method"])
    names = [f"{m.replace('_', ' ')}{' (control)' if m in known else ''}" for m in order]
    ax.set_yticks(range(len(order)), names, fontsize=8, color=_INK)
    ax.set_xlabel(score, fontsize=8, color=_INK)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color=_GREY, lw=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _from_below(areas: pd.DataFrame, better: str | None) -> list[str]:
    """The methods in the order of their rows."""
    if better is None:
        return list(dict.fromkeys(areas["method"]))[::-1]
    values = areas["value"] if better == "lower" else -areas["value"]
    return list(values.groupby(areas["method"]).min().sort_values().index[::-1])
