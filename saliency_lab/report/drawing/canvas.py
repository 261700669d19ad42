"""What figures have in common: a canvas, rows that their lines are spread over, axes, a legend."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#222222"
MUTED = "#666666"
GRID = "#e3e3e3"
LINES_PER_ROW = 7
"""As many lines as one pair of axes can show, and as many as its legend has room for."""

T = TypeVar("T")


def in_rows(lines: Sequence[T]) -> list[list[T]]:
    """Lines in as few rows as hold them, as evenly as possible: 8 are 4 and 4, not 7 and 1."""
    rows = -(-len(lines) // LINES_PER_ROW)
    ends = [row * len(lines) // rows for row in range(rows + 1)]
    return [list(lines[start:end]) for start, end in itertools.pairwise(ends)]


def new_canvas(width: float, height: float, rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A white figure of a size in inches, and its axes (rows, columns); no pyplot is involved."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def plain_axes(ax: Axes) -> None:
    """A light grid, and no frame but the two axes."""
    ax.grid(True, color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#999999")
    ax.tick_params(labelsize=8, colors=MUTED, length=2.5)


def row_legend(last: Axes, row: Sequence[Axes]) -> None:
    """One legend for a row of axes, right of the last."""
    found: dict[str, Artist] = {}
    for ax in row:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    last.legend(
        list(found.values()),
        list(found),
        frameon=False,
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
    )
