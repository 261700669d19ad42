"""Several altered copies of every image of a batch in one recorded pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.frozen import frozen, placed_images
from saliency_lab.inference.memory import fitting_batch, free_bytes, image_bytes, useful_batch

Point = TypeVar("Point")


def copies_at_once(model: nn.Module, images: Tensor) -> int:
    """How many copies of a batch (B, C, H, W) are worth one recorded pass, and fit into memory.

    One where the batch itself is as large as a pass profits from. Of few images the copies fill
    the pass: layers are too small otherwise, and weights are read for one image.
    """
    pixels, device = images.shape[2] * images.shape[3], images.device
    if 2 * len(images) > useful_batch(pixels, device):
        return 1
    with torch.inference_mode(False), frozen(model):
        taken = image_bytes(model, placed_images(model, images[:1]).clone())["maps"]
    return max(1, fitting_batch(taken, free_bytes(device), pixels, device) // len(images))


def groups(points: Iterable[Point], size: int) -> Iterator[list[Point]]:
    """Consecutive points, `size` at a time; the last group may be smaller."""
    remaining = iter(points)
    while group := list(islice(remaining, size)):
        yield group


def copies_of(field: ClassField, classes: Tensor, copies: int) -> Tensor:
    """Attributions of each of several copies of a batch, shape (copies, B, C, H, W).

    Args:
        field: of copies · B images, the first copy of every image first.
        classes: int64, shape (B,).
        copies: how many copies of each image there are.
    """
    return field.of(classes.repeat(copies)).unflatten(0, (copies, -1))
