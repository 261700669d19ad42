"""One look for every figure and for the page: the colour, dash, marker and name of a curve.

All colours keep a contrast of at least 3:1 against white and against the page's dark background,
so that a method has the same colour everywhere. The views take the colour-blind safe hues of Okabe
and Ito (two of them darkened for that contrast); markers and dashes repeat what hue says.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

MAP_COLOURS = "magma"
"""Name of the perceptually uniform colour map of every saliency map."""

SIGNED_COLOURS = "RdBu_r"
"""Name of the diverging colour map of signed maps: blue below zero, red above."""

VIEWS = ("original", "positive", "negative", "active", "inactive")

_VIEW_COLOUR = {
    "original": "#767676",
    "positive": "#0072b2",
    "negative": "#b9608f",
    "active": "#d55e00",
    "inactive": "#009270",
}
_VIEW_MARKER = {
    "original": "o",
    "positive": "^",
    "negative": "v",
    "active": "s",
    "inactive": "D",
}
_SOURCE_COLOURS = (
    "#9c5a2e",
    "#4a6fe3",
    "#8e4ec6",
    "#5b8700",
    "#cf2e6c",
    "#00838f",
    "#a37500",
    "#64748b",
    "#c0564a",
    "#3f7d4e",
)
_DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (6.0, 2.0),
    (2.0, 1.5),
    (6.0, 1.5, 1.5, 1.5),
    (9.0, 3.0),
    (3.0, 3.0),
)
# Neighbours in this order get the most different hues; a name that is not here is hashed.
_SOURCES = (
    "smoothgrad",
    "integrated_gradients",
    "grad_cam",
    "guided_backprop",
    "lrp",
    "gradient_x_input",
    "occlusion",
    "random_map",
    "deeplift",
    "deconvnet",
    "guided_grad_cam",
    "rise",
    "lime",
    "sobel",
    "vargrad",
    "gradient_shap",
    "kernel_shap",
    "centre_bias",
    "smoothgrad_squared",
    "inverted",
    "attn_lrp",
    "libragrad",
    "gradient_attention",
    "legrad",
    "attention_rollout",
    "gad",
    "adaptive",
    "adaptive_map",
    "file",
    "degraded",
)
_NO_VIEW = frozenset({"", "none", "map", "null", "original"})


@dataclass(frozen=True)
class Style:
    """How one method's curve is drawn: hex colour, dash lengths in line widths, marker, name."""

    colour: str
    dash: tuple[float, ...]
    marker: str
    label: str


def style_of(method: str, view: str) -> Style:
    """The style of a method and view, the same whatever else is shown beside it."""
    position = _source_position(method)
    if method == "gradient":
        colour, dash = _VIEW_COLOUR.get(view, _SOURCE_COLOURS[0]), _DASHES[0]
    elif view in _NO_VIEW:
        colour = _SOURCE_COLOURS[position % len(_SOURCE_COLOURS)]
        dash = _DASHES[position // len(_SOURCE_COLOURS) % len(_DASHES)]
    else:
        colour = _VIEW_COLOUR.get(view, _SOURCE_COLOURS[position % len(_SOURCE_COLOURS)])
        dash = _DASHES[1 + position % (len(_DASHES) - 1)]
    return Style(colour, dash, _VIEW_MARKER.get(view, "o"), label_of(method, view))


def varied(style: Style, variant: int) -> Style:
    """The style with another dash for each further setting of the same method and view."""
    at = _DASHES.index(style.dash) + variant
    return replace(style, dash=_DASHES[at % len(_DASHES)])


def told_apart(styles: Sequence[Style]) -> list[Style]:
    """The styles, with a free dash for each that looks like an earlier one.

    A view has one hue and one marker, and there are fewer dashes than sources: in one chart two of
    them could be the same line. The seventh of one view looks like another one all the same.
    """
    taken: set[tuple[str, tuple[float, ...], str]] = set()
    apart = []
    for style in styles:
        variants = [varied(style, n) for n in range(len(_DASHES))]
        free = [one for one in variants if (one.colour, one.dash, one.marker) not in taken]
        chosen = free[0] if free else style
        taken.add((chosen.colour, chosen.dash, chosen.marker))
        apart.append(chosen)
    return apart


def label_of(method: str, view: str) -> str:
    """The name a reader sees: the view for the plain gradient, else the source and its view."""
    if method == "gradient":
        return view if view not in _NO_VIEW else "original"
    name = method.replace("_", " ")
    return name if view in _NO_VIEW else f"{name} · {view}"


def order_of(method: str, view: str) -> tuple[int, int, int, str, str]:
    """Sorting key of methods: the gradient first, then sources as listed; the paper's views."""
    known = VIEWS.index(view) if view in VIEWS else len(VIEWS)
    listed = _SOURCES.index(method) if method in _SOURCES else len(_SOURCES)
    return (method != "gradient", listed, known, method, view)


def _source_position(method: str) -> int:
    if method in _SOURCES:
        return _SOURCES.index(method)
    return zlib.crc32(method.encode())
