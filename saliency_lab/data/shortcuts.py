"""Cues planted into the images of one class, so that what a classifier relies on is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saliency_lab.data.source import Pixels

Kind = Literal["watermark", "patch", "colour"]
Place = Literal["top_left", "top_right", "bottom_left", "bottom_right", "centre", "random"]
Mask = NDArray[np.bool]

_TINT = (255, 120, 0)
_SHARES = {"top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0}


@dataclass(frozen=True)
class Cue:
    """A mark that images of one class carry, decided by an image's id and the seed alone.

    - `watermark`: letter-like strokes, a quarter of the image high and half of it wide, blended
      with white;
    - `patch`: a chequered square, a fifth of the shorter side;
    - `colour`: an orange tint of the whole image, which has no place.

    Attributes:
        kind: which mark.
        label: the class whose images carry it; images of other classes never do.
        share: of that class's images, in each split.
        strength: opacity of the mark, in (0, 1].
        place: where it lies; `random` draws a place for every image.
        seed: decides which images carry it, and random places.
    """

    kind: Kind
    label: int
    share: float
    strength: float
    place: Place
    seed: int

    def carried(self, labels: Sequence[int] | NDArray[np.int64], ids: Sequence[str]) -> Mask:
        """Which images carry the cue, bool (n,)."""
        drawn = np.array([self._number(sample, "share") for sample in ids])
        return (np.asarray(labels) == self.label) & (drawn < self.share)

    def masks(self, ids: Sequence[str], size: tuple[int, int]) -> Mask:
        """Where the cue lies, or would lie, in images (H, W): bool (n, H, W)."""
        if self.kind == "colour":
            return np.ones((len(ids), *size), dtype=np.bool)
        mark = np.abs(_mark(self.kind, size)) > 0
        found = np.zeros((len(ids), *size), dtype=np.bool)
        for at, sample in enumerate(ids):
            top, left = self._corner(sample, mark.shape, size)
            found[at, top : top + mark.shape[0], left : left + mark.shape[1]] = mark
        return found

    def planted(self, images: Pixels, ids: Sequence[str]) -> Pixels:
        """Images with the cue, whatever their class: uint8 (n, C, H, W)."""
        size = (images.shape[2], images.shape[3])
        if self.kind == "colour":
            tint = np.array(_TINT, dtype=np.float64)[: images.shape[1], None, None]
            return self._blended(images, tint, np.ones((1, 1, *size), dtype=np.bool))
        mark = _mark(self.kind, size)
        colours = np.zeros((len(ids), 1, *size))
        for at, sample in enumerate(ids):
            top, left = self._corner(sample, mark.shape, size)
            colours[at, 0, top : top + mark.shape[0], left : left + mark.shape[1]] = mark
        return self._blended(images, np.where(colours > 0, 255.0, 0.0), np.abs(colours) > 0)

    def _blended(self, images: Pixels, colour: NDArray[np.float64], where: Mask) -> Pixels:
        opacity = self.strength * where
        mixed = (1 - opacity) * images.astype(np.float64) + opacity * colour
        return mixed.round().astype(np.uint8)

    def _corner(self, sample: str, mark: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
        free = (size[0] - mark[0], size[1] - mark[1])
        return corner(self.place, free, self.seed, sample)

    def _number(self, sample: str, purpose: str) -> float:
        return drawn_number(self.seed, purpose, sample)


def corner(place: Place, free: tuple[int, int], seed: int, sample: str) -> tuple[int, int]:
    """Row and column of the upper left corner of what is laid into an image.

    Args:
        place: where it lies.
        free: rows and columns of the image that it leaves.
        seed, sample: decide where `random` is.
    """
    if place == "random":
        down, across = (drawn_number(seed, axis, sample) for axis in ("row", "column"))
    elif place == "centre":
        down = across = 0.5
    else:
        vertical, _, horizontal = place.partition("_")
        down, across = _SHARES[vertical], _SHARES[horizontal]
    return round(down * free[0]), round(across * free[1])


def drawn_number(seed: int, purpose: str, sample: str) -> float:
    """Uniform in [0, 1), by its arguments alone."""
    text = f"{seed}/{purpose}/{sample}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest()) / 2**56


def _mark(kind: Kind, size: tuple[int, int]) -> NDArray[np.float64]:
    """1 where the mark is white, −1 where it is black, 0 where the image shows through."""
    height, width = size
    if kind == "patch":
        side = max(2, min(size) // 5)
        squares = np.indices((side, side)) * 4 // side
        return np.where(squares.sum(0) % 2, 1.0, -1.0)
    # "HTL" in a raster of 5 × 11, enlarged to a quarter of the height and half of the width.
    raster = np.array(
        [[int(dot) for dot in row] for row in
         ("10101110100", "10100100100", "11100100100", "10100100100", "10100100111")],
        dtype=np.float64,
    )  # fmt: skip
    rows = np.arange(max(5, height // 4)) * 5 // max(5, height // 4)
    columns = np.arange(max(11, width // 2)) * 11 // max(11, width // 2)
    return raster[np.ix_(rows, columns)]
