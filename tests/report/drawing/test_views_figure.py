"""The figure of sources and views: rows in order, one mark per curve, the best control's line."""

from __future__ import annotations

import pandas as pd
import pytest

from saliency_lab.report.drawing.figures import figure_bytes
from saliency_lab.report.drawing.views_figure import views_figure


def areas() -> pd.DataFrame:
    rows = [
        ("gradient", "original", "black", 0.22, False),
        ("gradient", "active", "black", 0.13, False),
        ("smoothgrad", "active", "black", 0.09, False),
        ("sobel", "original", "black", 0.30, True),
        ("random_map", "original", "black", 0.20, True),
        ("gradient", "original", "white", 0.2, False),
    ]
    table = pd.DataFrame(rows, columns=["method", "view", "condition", "value", "control"])
    return table.assign(better="lower", low=table["value"] - 0.01, high=table["value"] + 0.01)


def test_the_best_source_is_at_the_top_and_controls_are_named() -> None:
    figure = views_figure(areas(), "data · model", "allegiance")
    black, white = figure.axes
    names = [label.get_text() for label in black.get_yticklabels()]
    assert names == ["sobel (control)", "random map (control)", "gradient", "smoothgrad"]
    assert [label.get_text() for label in white.get_yticklabels()] == ["gradient"]
    vertical = [line for line in black.lines if list(line.get_xdata()) == [0.20, 0.20]]
    assert len(vertical) == 1
    marks = [line for line in black.lines if line.get_marker() not in ("None", None, "")]
    assert len([line for line in marks if len(line.get_xdata()) == 1]) == 5
    assert figure_bytes(figure)[:4] == b"\x89PNG"


def test_where_higher_is_better_the_largest_score_is_the_best() -> None:
    table = areas().assign(better="higher")
    (black, _) = views_figure(table, "", "allegiance").axes
    assert black.get_yticklabels()[-1].get_text() == "sobel (control)"


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        views_figure(areas()[:0], "", "allegiance")
