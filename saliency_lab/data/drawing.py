"""Pictures of the embedded data set: one outlined shape among textures, clutter and occluders."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = (
    "arrow", "bowtie", "circle", "crescent", "cross", "heart", "spiral", "square", "star",
    "triangle",
)  # fmt: skip
SIDE = 32
DRAWING = "shapes,2"
"""Changes when the pictures of a seed change."""

Points = NDArray[np.floating]
_FINE = 4  # Strokes are drawn this many times larger and averaged: smooth edges, exact coverage.
_RADIUS = (0.28, 0.34)  # Of the shape, as a share of the side.
_WIDTH = (3.0, 3.6)  # Of the stroke, in pixels.
_TURN = 0.4  # Radians, either way.
_GROUND, _INK = 0.15, 0.85  # Mean brightness of ground and outline.


def drawn(label: int, seed: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.bool]]:
    """One picture and the mask of its evidence.

    Hue, place, size, turn, aspect, line width, background and clutter are drawn independently of
    the class: form alone tells the classes apart. Brightness varies little, because a deep plain
    network without batch norm needs thousands of steps to find its way into pictures whose means
    say nothing at all; here the longer outlines are a little brighter on average.

    Args:
        label: index into `CLASSES`.
        seed: of the picture; the same numbers give the same picture everywhere.

    Returns:
        uint8 (3, SIDE, SIDE), and bool (SIDE, SIDE): pixels at least half covered by the outline
        and less than half covered by what lies in front of it.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    base = _GROUND + _tint(rng, 0.15)
    picture = _background(rng, base)
    picture = _covered(picture, *_clutter(rng, int(rng.integers(1, 4)), 0.3))
    outline = _outline(rng, label)
    colour = _INK + _tint(rng, 0.25)
    picture = _covered(picture, outline[..., None] * colour, outline)
    front, cover = _clutter(rng, int(rng.integers(0, 2)), 0.2)
    picture = _covered(picture, front, cover)
    picture += 0.02 * rng.standard_normal(picture.shape, dtype=np.float32)
    pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels), (outline >= 0.5) & (cover < 0.5)


def _outline(rng: np.random.Generator, label: int) -> Points:
    """Share of every pixel that the shape's outline covers, (SIDE, SIDE) in [0, 1]."""
    radius = rng.uniform(*_RADIUS) * SIDE
    points = _unit_shape(CLASSES[label]).copy()
    points *= rng.uniform(0.85, 1.0, 2)
    turn = rng.uniform(-_TURN, _TURN)
    cos, sin = math.cos(turn), math.sin(turn)
    points = points @ np.array([[cos, sin], [-sin, cos]]) * radius
    room = np.maximum(SIDE / 2 - np.abs(points).max(axis=0) - 1, 0)
    points += SIDE / 2 + rng.uniform(-room, room)
    canvas = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    width = round(rng.uniform(*_WIDTH) * _FINE)
    _stroke(canvas, points, width)
    return _averaged(canvas)


@cache
def _unit_shape(name: str) -> Points:
    """Corners of the shape within the unit circle, (n, 2); closed shapes end where they begin."""
    if name == "spiral":
        turn = np.linspace(0, 3.4 * math.pi, 48)
        return _polar(0.12 + 0.88 * turn / turn[-1], turn)
    if name == "circle":
        return _polar(np.ones(41) * 0.9, np.linspace(0, 2 * math.pi, 41))
    if name == "heart":
        t = np.linspace(0, 2 * math.pi, 41)
        down = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([16 * np.sin(t) ** 3, -down - 2], axis=1) / 16.5
    if name == "crescent":
        outer = np.linspace(0.25 * math.pi, 1.75 * math.pi, 28)
        edge = math.cos(0.25 * math.pi)
        inner = np.linspace(1.62 * math.pi, 0.38 * math.pi, 20)
        bite = _polar(np.ones(20), inner) * (edge / math.sin(0.38 * math.pi))
        bite[:, 0] += edge - bite[0, 0]
        return _closed(np.concatenate([_polar(np.ones(28), outer), bite[1:-1]]))
    if name == "star":
        return _closed(_polar(np.tile([1.0, 0.42], 5), np.arange(10) * math.pi / 5))
    corners = {
        "triangle": [(0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)],
        "square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
        "bowtie": [(-0.85, -0.55), (0.85, 0.55), (0.85, -0.55), (-0.85, 0.55)],
        "arrow": [(-1.0, -0.25), (0.1, -0.25), (0.1, -0.7), (1.0, 0.0), (0.1, 0.7), (0.1, 0.25),
                  (-1.0, 0.25)],
        "cross": [(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
                  (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3),
                  (-0.3, -0.3)],
    }  # fmt: skip
    return _closed(np.array(corners[name]))


def _polar(radius: Points, angle: Points) -> Points:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _closed(points: Points) -> Points:
    # The second point again, so that the joint of the last corner is drawn too.
    return np.concatenate([points, points[:2]])


def _stroke(canvas: Image.Image, points: Points, width: int) -> None:
    """A line through the points with round joints."""
    draw, half = ImageDraw.Draw(canvas), width // 2
    corners = [(round(x), round(y)) for x, y in (points * _FINE).tolist()]
    draw.line(corners, fill=255, width=width)
    for x, y in corners:
        draw.ellipse((x - half, y - half, x + half, y + half), fill=255)


def _background(rng: np.random.Generator, base: Points) -> Points:
    """Two gratings and blotches around a base colour, (SIDE, SIDE, 3)."""
    place = np.arange(SIDE, dtype=np.float32) / SIDE
    picture = np.tile(base.astype(np.float32), (SIDE, SIDE, 1))
    for _ in range(2):
        turn, waves = rng.uniform(0, math.pi), rng.uniform(1, 9)
        along = math.cos(turn) * place[None, :] + math.sin(turn) * place[:, None]
        wave = np.sin(2 * math.pi * (waves * along + rng.uniform()))
        picture += wave[..., None] * rng.uniform(-0.04, 0.04, 3).astype(np.float32)
    coarse = rng.uniform(0, 1, (8, 8)).astype(np.float32)
    blotches = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    tint = rng.uniform(-0.1, 0.1, 3).astype(np.float32)
    picture += (np.asarray(blotches)[..., None] - 0.5) * tint
    return picture


def _clutter(rng: np.random.Generator, count: int, length: float) -> tuple[Points, Points]:
    """Bars, arcs and dots: colour times coverage (SIDE, SIDE, 3), and coverage."""
    fine = SIDE * _FINE
    colours, cover = Image.new("RGB", (fine, fine)), Image.new("L", (fine, fine))
    paint, hide = ImageDraw.Draw(colours), ImageDraw.Draw(cover)
    for _ in range(count):
        kind, *colour = rng.integers((3, 256, 256, 256)).tolist()
        x, y = rng.integers(0, fine, 2).tolist()
        size, turn, width = rng.uniform((0.3, 0, 2.0), (1.0, 360, 4.0)).tolist()
        reach, width = round(size * length * fine / 2), round(width * _FINE)
        for draw, fill in ((paint, tuple(colour)), (hide, 255)):
            if kind == 0:
                across = round(reach * math.cos(turn)), round(reach * math.sin(turn))
                ends = (x - across[0], y - across[1], x + across[0], y + across[1])
                draw.line(ends, fill=fill, width=width)
            elif kind == 1:
                box = (x - reach, y - reach, x + reach, y + reach)
                draw.arc(box, turn, turn + 120, fill=fill, width=width)
            else:
                around = reach // 4 + _FINE
                box = (x - around, y - around, x + around, y + around)
                draw.ellipse(box, fill=fill)
    return _averaged(colours), _averaged(cover)


def _averaged(canvas: Image.Image) -> Points:
    """Means of the fine pixels below every pixel, float32 in [0, 1]."""
    return np.asarray(canvas.reduce(_FINE), dtype=np.float32) / 255


def _covered(picture: Points, front: Points, cover: Points) -> Points:
    return picture * (1 - cover[..., None]) + front


def _tint(rng: np.random.Generator, most: float) -> Points:
    """A shift of the three channels towards a random hue that leaves their mean as it is."""
    thirds = np.arange(3) * 2 * math.pi / 3
    return rng.uniform(0.3, 1.0) * most * np.cos(rng.uniform(0, 2 * math.pi) - thirds)
