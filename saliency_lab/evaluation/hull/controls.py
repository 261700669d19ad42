"""Masks that shrink as GAD's do, for reasons that have nothing to do with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saliency_lab.attribution.core.importance import largest
from saliency_lab.attribution.core.random_streams import SampleGenerator

CUTS = 8
"""Sides that are cut off the image to leave a random hull."""


def random_subsets(masks: Tensor, counts: Tensor, generator: SampleGenerator) -> Tensor:
    """`counts[b]` pixels of each mask, drawn without replacement.

    Args:
        masks: bool (B, H, W).
        counts: int64 (B,), at most as many as a mask has pixels.
        generator: one stream per image.

    Returns:
        bool (B, H, W), on the masks' device.
    """
    drawn = generator.uniform(*masks.shape[1:]).to(masks.device)
    return largest(torch.where(masks, drawn, -1), counts) & masks


def top_pixels(maps: Tensor, counts: Tensor) -> Tensor:
    """The `counts[b]` largest values of each map, ties by index: bool (B, H, W)."""
    return largest(maps, counts)


def random_hulls(areas: Tensor, size: tuple[int, int], generator: SampleGenerator) -> Tensor:
    """Convex sets of exactly `areas[b]` pixels, in random places and of random outlines.

    The image is cut along lines of random directions. Each of the `CUTS` cuts takes as many of
    the outermost pixels away as leave the rest an equal part of what is still to go.

    Args:
        areas: int64 (B,), in [0, H·W].
        size: (H, W).
        generator: one stream per image.

    Returns:
        bool (B, H, W), on the CPU.
    """
    height, width = size
    rows, columns = torch.meshgrid(
        torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
    )
    angles = 2 * math.pi * generator.uniform(CUTS).double()
    left = torch.ones(len(areas), height, width, dtype=torch.bool)
    areas = areas.cpu()
    for cut in range(CUTS):
        angle = angles[:, cut, None, None]
        # How far in a pixel lies, seen from where this cut comes.
        depth = rows * angle.sin() + columns * angle.cos()
        pixels = left.sum((1, 2))
        kept = areas + (pixels - areas) * (CUTS - 1 - cut) // (CUTS - cut)
        left = largest(torch.where(left, depth, -torch.inf), kept)
    return left
