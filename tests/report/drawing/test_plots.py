"""Charts of the page: every value and band lies within, whatever its sign."""

from __future__ import annotations

import re

import pytest

from saliency_lab.report.drawing.palette import style_of
from saliency_lab.report.drawing.plots import HEIGHT, Line, chart_svg

STYLE = style_of("gradient", "original")


def heights(svg: str, kind: str) -> list[float]:
    (path,) = re.findall(rf'class="{kind}" d="([^"]+)"', svg)
    return [float(y) for y in re.findall(r"[\d.]+ (-?[\d.]+)", path)]


def ticks(svg: str) -> dict[str, float]:
    """The height of the grid line beside each number."""
    found = re.findall(r'class="grid" d="M48 ([\d.]+)H448"/><text [^>]*>([^<]+)<', svg)
    return {text: float(y) for y, text in found}


def chart(line: Line, *, percent_y: bool = False) -> str:
    return chart_svg([line], name="n", x_title="x", percent_y=percent_y)


def test_values_below_zero_are_drawn_between_ticks_below_zero() -> None:
    svg = chart(Line("k", STYLE, [0.0, 0.5, 1.0], [1.0, -0.1, -0.4]))
    found = ticks(svg)
    assert list(found) == ["−0.5", "0", "0.5", "1"]
    first, middle, last = heights(svg, "line")
    assert first == found["1"]
    assert found["0"] < middle < last < found["−0.5"] < HEIGHT
    # Linear: a fifth of the way from 0 to −0.5, and four fifths.
    way = found["−0.5"] - found["0"]
    assert (middle - found["0"], last - found["0"]) == pytest.approx(
        (way / 5, way * 4 / 5), abs=0.2
    )


def test_a_band_is_within_the_chart_where_its_line_is() -> None:
    svg = chart(Line("k", STYLE, [0.0, 1.0], [0.1, 0.4], low=[-0.2, 0.1], high=[0.3, 1.4]))
    found = ticks(svg)
    assert min(heights(svg, "band")) >= min(found.values())
    assert max(heights(svg, "band")) <= max(found.values())


@pytest.mark.parametrize("values", [[-0.3, -0.2], [-7.0, -2.0], [-0.01, 0.02], [-1.0, -1.0]])
def test_what_is_all_below_zero_has_zero_at_the_top_or_below_it(values: list[float]) -> None:
    svg = chart(Line("k", STYLE, [0.0, 1.0], values))
    found = ticks(svg)
    assert "0" in found
    assert min(found.values()) <= min(heights(svg, "line"))
    assert max(heights(svg, "line")) <= max(found.values()) < HEIGHT


def test_what_is_nowhere_below_zero_begins_there() -> None:
    assert list(ticks(chart(Line("k", STYLE, [0.0, 1.0], [0.3, 1.7])))) == [
        "0", "0.4", "0.8", "1.2", "1.6", "2"
    ]  # fmt: skip
    shares = ticks(chart(Line("k", STYLE, [0.0, 1.0], [0.3, 0.4]), percent_y=True))
    assert list(shares) == ["0%", "20%", "40%", "60%", "80%", "100%"]


def test_a_value_that_is_no_number_leaves_the_others_their_chart() -> None:
    svg = chart(Line("k", STYLE, [0.0, 1.0, 2.0], [float("nan"), 0.3, float("inf")]))
    assert list(ticks(svg))[-1] == "0.5"
