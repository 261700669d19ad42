"""Filled convex hulls of pixels, and the relative complexity (RC) of one map against another.

Source: Rodrigues, Boutry, Najman, "Transforming gradient-based techniques into interpretable
methods", 2024, the measure RC.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from torch import Tensor

from saliency_lab.attribution.core.importance import Rule, important_pixels
from saliency_lab.errors import UserError
from saliency_lab.inputs import given_tensor

Points = NDArray[np.int64]

SHAPES = ("whole", "empty", "few", "line")
"""A hull's shape by its code: with an inside; of no pixel; of one or two; of more on one line."""


class Hulls(NamedTuple):
    """The convex hulls of the pixels of a batch's masks."""

    filled: Tensor
    """Pixels whose centre lies in the hull or on its edge, bool (B, H, W), on the CPU."""

    shapes: Tensor
    """Index into SHAPES, int64 (B,)."""

    @property
    def areas(self) -> Tensor:
        """Pixels of each filled hull, int64 (B,)."""
        return self.filled.sum((1, 2))


def convex_hulls(masks: Tensor) -> Hulls:
    """The filled convex hull of each mask's pixel centres.

    A hull without an inside is filled, too: of no pixel it is empty, of one it is that pixel, and
    of several on a line it is every pixel whose centre lies on the segment between the outermost.
    So areas are defined for every mask, and `shapes` says which ones are degenerate.

    Args:
        masks: bool (B, H, W), on any device.

    Raises:
        UserError: masks of another shape or type.
    """
    masks = given_tensor(masks, "masks", "(B, H, W)")
    if masks.dim() != 3 or masks.dtype != torch.bool:
        raise UserError(
            f"Expected `masks` to be bool (B, H, W), but got {tuple(masks.shape)} of {masks.dtype}."
        )
    arrays = masks.cpu().numpy()
    filled, shapes = np.zeros_like(arrays), np.zeros(len(arrays), dtype=np.int64)
    for image, array in enumerate(arrays):
        points = _outermost(array)
        shape = "whole"
        if array.sum() < 3:
            shape = ("empty", "few", "few")[int(array.sum())]
        elif _on_a_line(points):
            shape = "line"
        if shape == "whole":
            vertices = points[ConvexHull(points).vertices]
            filled[image] = _filled_polygon(vertices, array.shape)
        elif shape != "empty":
            rows, columns = _segment(points).T
            filled[image, rows, columns] = True
        shapes[image] = SHAPES.index(shape)
    return Hulls(torch.from_numpy(filled), torch.from_numpy(shapes))


def relative_complexity(
    maps: Tensor, original: Tensor, *, level: float = 0.5, rule: Rule = "top"
) -> Tensor:
    """RC: area of the hull around a map's important pixels over that of the original map's.

    Args:
        maps: (B, H, W), never negative, such as GAD maps; or bool masks of important pixels.
        original: (B, H, W), the maps to compare with; or bool masks.
        level, rule: which pixels of a map are important, see `important_pixels`.

    Returns:
        (B,) float64 on the CPU, >= 0, below 1 where the map's hull is the smaller one. Areas are
        numbers of pixels of filled hulls, degenerate ones included (see `convex_hulls`): a map
        without an important pixel has RC 0, and RC is NaN where the original has none.

    Raises:
        UserError: shapes that differ, or a level or rule that does not exist.

    Source: Rodrigues, Boutry, Najman 2024, RC.
    """
    if maps.shape != original.shape:
        raise UserError(
            f"Expected `original` to be of shape {tuple(maps.shape)}, but got "
            f"{tuple(original.shape)}."
        )
    areas = convex_hulls(important_pixels(maps, level, rule)).areas.double()
    whole = convex_hulls(important_pixels(original, level, rule)).areas
    return torch.where(whole > 0, areas / whole, torch.nan)


def _outermost(array: NDArray[np.bool]) -> Points:
    """First and last pixel of each row as (row, column): their hull is that of all pixels."""
    rows = np.flatnonzero(array.any(1))
    first = array[rows].argmax(1)
    last = array.shape[1] - 1 - array[rows, ::-1].argmax(1)
    return np.unique(np.stack([np.tile(rows, 2), np.concatenate([first, last])], 1), axis=0)


def _on_a_line(points: Points) -> bool:
    along, steps = points[-1] - points[0], points - points[0]
    return bool((along[0] * steps[:, 1] == along[1] * steps[:, 0]).all())


def _segment(points: Points) -> Points:
    """Pixels whose centre is on the segment between the first and the last of sorted points."""
    along = points[-1] - points[0]
    parts = max(1, math.gcd(int(along[0]), int(along[1])))
    return points[0] + np.arange(parts + 1)[:, None] * (along // parts)


def _filled_polygon(vertices: Points, shape: tuple[int, ...]) -> NDArray[np.bool]:
    """Pixel centres in a convex polygon or on its edge, in whole numbers, so without rounding.

    An edge from a to b has p inside where (b − a) × (p − a) has the sign of the polygon's area.
    In each row that cuts columns off on one side; the inside is where all edges agree.
    """
    following = np.roll(vertices, -1, axis=0)
    (start_row, start_column), (down, right) = vertices.T, (following - vertices).T
    turn = np.sign(np.sum(start_row * following[:, 1] - start_column * following[:, 0]))
    rows = np.arange(shape[0])[:, None]
    slope = turn * down
    bound = turn * right * (rows - start_row) + slope * start_column
    left, cut = slope > 0, slope < 0
    low = np.max(-(-bound[:, left] // slope[left]), axis=1, initial=0)
    high = np.min(-bound[:, cut] // -slope[cut], axis=1, initial=shape[1] - 1)
    level = (bound[:, slope == 0] <= 0).all(1)
    columns = np.arange(shape[1])
    return level[:, None] & (columns >= low[:, None]) & (columns <= high[:, None])
