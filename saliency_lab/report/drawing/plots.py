"""Inline SVG of the page's curves: drawn here, so that they are there without any script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from saliency_lab.report.drawing.axes import Axis, places
from saliency_lab.report.drawing.palette import Style

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 44
MARKERS = {
    "o": "M-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0z",
    "^": "M0 -3.2L3 2.4L-3 2.4z",
    "v": "M0 3.2L3 -2.4L-3 -2.4z",
    "s": "M-2.5 -2.5H2.5V2.5H-2.5z",
    "D": "M0 -3.4L3.4 0L0 3.4L-3.4 0z",
}


@dataclass(frozen=True)
class Line:
    """One curve of a chart: x ascending; `low` and `high` give a band where there is one."""

    key: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Scale:
    """The linear map from values to the drawing; x starts at 0, y at the lowest of `levels`.

    `levels` are the values with a grid line, in ascending order.
    """

    x_max: float
    levels: Sequence[float]

    def x(self, value: float) -> float:
        return _LEFT + value / self.x_max * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.levels[0]) / (self.levels[-1] - self.levels[0])
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def lines_of(points: pd.DataFrame, styles: dict[str, Style], over: Axis = "fraction") -> list[Line]:
    """The curves of one condition over an axis, in the order of `styles`."""
    found = []
    by_key = dict(iter(points.groupby("key", sort=False)))
    for key, style in styles.items():
        if key in by_key:
            part = by_key[key].sort_values("fraction")
            values = (part[name].tolist() for name in ("allegiance", "low", "high"))
            found.append(Line(key, style, places(part, over).tolist(), *values))
    return found


def chart_svg(
    lines: Sequence[Line],
    *,
    name: str,
    x_title: str,
    percent_x: bool = True,
    percent_y: bool = True,
) -> str:
    """A chart as an SVG element; `name` is what a screen reader says of it."""
    x_max = max((x for line in lines for x in line.x), default=1.0) or 1.0
    ends = (each or () for line in lines for each in (line.y, line.low, line.high))
    values = [y for each in ends for y in each if math.isfinite(y)]
    scale = Scale(x_max, _levels([0.0, 1.0] if percent_y else values))
    plot = "".join(_curve(line, scale) for line in lines)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}" '
        f'data-left="{_LEFT}" data-right="{WIDTH - _RIGHT}" data-xmax="{x_max:g}">'
        f"{_axes(scale, x_title, percent_x, percent_y)}"
        f'<line class="cross" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" x1="-9" x2="-9"/>{plot}</svg>'
    )


def swatch_svg(style: Style) -> str:
    """A short piece of the method's line with its marker, for legends."""
    dash = _dash(style)
    return (
        f'<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true">'
        f'<path d="M1 6H25" stroke="{style.colour}" stroke-width="2.2"{dash}/>'
        f'<path transform="translate(13 6)" d="{_marker(style)}" fill="{style.colour}"/></svg>'
    )


def interval_svg(
    value: float, low: float, high: float, span: tuple[float, float], colour: str
) -> str:
    """A dot with its interval on a scale from end to end of `span`, beside a number."""
    least, width = span[0], span[1] - span[0]
    place = [5 + 80 * min(max((v - least) / width, 0.0), 1.0) for v in (value, low, high)]
    return (
        f'<svg class="interval" viewBox="0 0 90 12" aria-hidden="true">'
        f'<path class="rule" d="M5 6H85"/>'
        f'<path d="M{place[1]:.1f} 6H{place[2]:.1f}" stroke="{colour}" stroke-width="3"/>'
        f'<circle cx="{place[0]:.1f}" cy="6" r="3.4" fill="{colour}"/></svg>'
    )


def interval_span(ends: Iterable[float]) -> tuple[float, float]:
    """The scale of intervals that are shown below each other: from 0, unless one lies below it."""
    known = [0.0, *ends]
    least, most = min(known), max(known)
    return (least, most) if most > least else (0.0, 1.0)


def _curve(line: Line, scale: Scale) -> str:
    colour = line.style.colour
    points = [(scale.x(x), scale.y(y)) for x, y in zip(line.x, line.y, strict=True)]
    parts = [f'<g class="curve" data-key="{escape(line.key)}">']
    if line.low is not None and line.high is not None:
        upper = _path((scale.x(x), scale.y(y)) for x, y in zip(line.x, line.high, strict=True))
        below = list(zip(line.x, line.low, strict=True))[::-1]
        lower = _path((scale.x(x), scale.y(y)) for x, y in below)
        parts.append(f'<path class="band" d="{upper}L{lower[1:]}Z" fill="{colour}"/>')
    parts.append(f'<path class="line" d="{_path(points)}" stroke="{colour}"{_dash(line.style)}/>')
    if len(points) <= 30:
        shape = _marker(line.style)
        parts += [
            f'<path transform="translate({x:.1f} {y:.1f})" d="{shape}" fill="{colour}"/>'
            for x, y in points
        ]
    return "".join([*parts, "</g>"])


def _axes(scale: Scale, x_title: str, percent_x: bool, percent_y: bool) -> str:
    parts = []
    for value in scale.levels:
        y = scale.y(value)
        text = f"{value:.0%}" if percent_y else f"{value:.3g}".replace("-", "−")
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4.5:.1f}" text-anchor="end">{text}</text>')
    for value in _ticks(scale.x_max):
        text = f"{value:.0%}" if percent_x else f"{value:g}"
        x, base = scale.x(value), HEIGHT - _BOTTOM
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<path class="axis" d="M{_LEFT} {HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>')
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_title)}</text>'
    )
    return "".join(parts)


def _ticks(largest: float) -> list[float]:
    if largest <= 1:
        return [step / 10 for step in range(0, int(largest * 10 + 1e-9) + 1, 2)]
    step = max(1, round(largest / 5))
    return [float(value) for value in range(0, int(largest) + 1, step)]


def _levels(values: Sequence[float]) -> list[float]:
    """Where grid lines lie: 0 is one of them, and all values are between the first and the last."""
    top, bottom = max(values, default=1.0), min([0.0, *values])
    if bottom == 0:
        return [_nice(top) * step / 5 for step in range(6)]
    step = _nice((max(top, 0.0) - bottom) / 5)
    below, above = math.floor(bottom / step), max(math.ceil(top / step), 0)
    return [step * at for at in range(below, above + 1)]


def _nice(largest: float) -> float:
    for step in (0.1, 0.2, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 8.0, 10.0):
        if largest <= step:
            return step
    return float(round(largest + 0.5))


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _dash(style: Style) -> str:
    if not style.dash:
        return ""
    return f' stroke-dasharray="{" ".join(f"{1.8 * length:g}" for length in style.dash)}"'


def _marker(style: Style) -> str:
    return MARKERS.get(style.marker, MARKERS["o"])
