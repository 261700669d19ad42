"""The figure of sources and views: rows in order, one mark per curve, the best control's line."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

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
    bounds = {"low": table["value"] - 0.01, "high": table["value"] + 0.01}
    return table.assign(better="lower", blind=table["control"], **bounds)


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


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_the_line_of_the_best_control_is_named_and_is_of_a_blind_one() -> None:
    table = areas()
    assert legend_of(views_figure(table, "", "allegiance")) == [
        "original",
        "active",
        "best control",
    ]
    table["blind"] = table["method"] == "sobel"
    black, _ = views_figure(table, "", "allegiance").axes
    assert [line.get_xdata()[0] for line in black.lines if line.get_label() == "best control"] == [
        0.30
    ]


def test_a_score_without_a_better_side_has_no_order_and_no_best_control() -> None:
    figure = views_figure(areas().assign(better=None), "", "complexity")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[::-1] == ["gradient", "smoothgrad", "sobel (control)", "random map (control)"]
    assert legend_of(figure) == ["original", "active"]
    dashed = [line for ax in figure.axes for line in ax.lines if line.get_linestyle() == "--"]
    assert not dashed


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        views_figure(areas()[:0], "", "allegiance")
