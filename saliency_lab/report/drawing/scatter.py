"""Inline SVG of maps as points: a measure against evidence that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from saliency_lab.report.drawing.palette import Style
from saliency_lab.report.drawing.plots import MARKERS

WIDTH, HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 46


@dataclass(frozen=True)
class Point:
    """One map: where it lies, how it is drawn, and whether it is a control."""

    key: str
    style: Style
    x: float
    y: float
    control: bool = False


def scatter_svg(points: Sequence[Point], *, name: str, x_title: str, y_title: str) -> str:
    """Points on axes that end near the outermost ones; controls are hollow.

    `name` is what a screen reader says of the drawing; each point says its own map and values.
    """
    x_ticks, y_ticks = (_ticks([getattr(p, axis) for p in points]) for axis in ("x", "y"))
    across, up = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * across

    def y_of(value: float) -> float:
        return _TOP + (y_ticks[-1] - value) / (y_ticks[-1] - y_ticks[0]) * up

    base = HEIGHT - _BOTTOM
    parts = [
        f'<svg class="chart scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(name)}">'
    ]
    for value in y_ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {y_of(value):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 7, y_of(value) + 4.5, "end", _number(value)))
    for value in x_ticks:
        parts.append(f'<path class="axis" d="M{x_of(value):.1f} {base}v4"/>')
        parts.append(_text(x_of(value), base + 18, "middle", _number(value)))
    parts.append(f'<path class="axis" d="M{_LEFT} {base}H{WIDTH - _RIGHT}"/>')
    parts.append(_text(_LEFT + across / 2, HEIGHT - 6, "middle", x_title))
    middle = _TOP + up / 2
    parts.append(
        f'<text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    for point in sorted(points, key=lambda one: one.control):
        said = f"{point.style.label}: {x_title} {point.x:.3f}, {y_title} {point.y:.3f}"
        paint = f'fill="{point.style.colour}"'
        if point.control:
            paint = f'fill="none" stroke="{point.style.colour}" stroke-width="1.4"'
        parts.append(
            f'<path data-key="{escape(point.key)}" d="{MARKERS[point.style.marker]}" {paint} '
            f'transform="translate({x_of(point.x):.1f} {y_of(point.y):.1f}) scale(1.5)">'
            f"<title>{escape(said)}</title></path>"
        )
    return "".join([*parts, "</svg>"])


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers with one step between, the first below and the last above all values."""
    low, high = min(values), max(values)
    width = (high - low) or abs(high) or 1.0
    raw = width / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * at for at in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
