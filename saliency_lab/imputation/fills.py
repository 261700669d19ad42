"""What deleted pixels are replaced by."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.frozen import without_autocast
from saliency_lab.imputation.linear import Imputation, NormalStreams, road_imputation
from saliency_lab.imputation.names import BLUR_SHARE, FILLS
from saliency_lab.inputs import given_images

_SHIFT = re.compile(r"shift([+-]\d*\.?\d+)")


class UniformStreams(Protocol):
    """Where noise comes from: one stream per image (attribution.randomness.SampleGenerator)."""

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), shape (B, *shape), float32 on the CPU."""
        ...


def fill_images(images: Tensor, fill: str, generator: UniformStreams | None = None) -> Tensor:
    """For every pixel the value that replaces it where it is deleted.

    =========  ===================================================================
    black      0
    white      1
    mean       the mean of the image, per channel
    blur       the image under a Gaussian of sigma 10/224 of its shorter side
    noise      uniform in [0, 1), per pixel and channel, one stream per image
    shift±δ    the image plus or minus δ, clamped to [0, 1] (for example shift+0.1)
    =========  ===================================================================

    Args:
        images: floating (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array.
        fill: one of the names above.
        generator: where noise is drawn from, one stream per image; each call draws anew.

    Returns:
        (B, C, H, W) in the images' dtype and on their device; black and white are expanded from
        one number and take no memory.

    Raises:
        UserError: images that are not so, an unknown fill, road, or noise without a generator.
    """
    return plain_fill(given_images(images), fill, generator)


@without_autocast()
def plain_fill(images: Tensor, fill: str, generator: UniformStreams | None) -> Tensor:
    """`fill_images` of pixels in any range, as an intermediate image may have them."""
    if shift := _SHIFT.fullmatch(fill):
        return (images + float(shift[1])).clamp_(0, 1)
    if fill == "noise":
        if generator is None:
            raise UserError("Expected `generator` to be given for fill=noise, but got none.")
        return generator.uniform(*images.shape[1:]).to(images)
    if fill == "road":
        raise UserError(
            "Expected `fill` to be one that does not depend on which pixels are deleted, "
            "but got 'road'."
        )
    if fill not in _FILLS:
        raise unknown_choice("fill", fill, FILLS)
    return _FILLS[fill](images)


class Streams(UniformStreams, NormalStreams, Protocol):
    """Uniform and normal numbers, one stream per image."""


def replacement(images: Tensor, fill: str, generator: Streams | None = None) -> Tensor | Imputation:
    """What deleted pixels are replaced by: a fill, or for `road` a function of what is deleted.

    `road` imputes the deleted pixels from those around them (`saliency_lab.imputation.linear`),
    so no single image holds its values; every other fill is that of `fill_images`.

    Raises:
        UserError: what `fill_images` raises, road without a generator.
    """
    if fill != "road":
        return plain_fill(images, fill, generator)
    if generator is None:
        raise UserError("Expected `generator` to be given for fill=road, but got none.")
    return road_imputation(images, generator=generator)


def fill_for(fill: Tensor | Imputation, removed: Tensor) -> Tensor:
    """The values (B, C, H, W) that pixels removed from each image, bool (B, H, W), get."""
    if isinstance(fill, Tensor):
        return fill
    return fill(torch.arange(len(removed), device=removed.device), removed)


def checked_fill(fill: str) -> str:
    """The fill's name if there is such a fill; a UserError otherwise."""
    shift = _SHIFT.fullmatch(fill)
    if fill not in FILLS and not shift:
        raise unknown_choice("fill", fill, FILLS)
    if shift and not 0 < abs(float(shift[1])) <= 1:
        raise UserError(
            "Expected `fill` to shift pixels, which lie in [0, 1], by more than 0 and at most 1, "
            f"but got '{fill}'"
        )
    return fill


def smoothed(images: Tensor, sigma: float) -> Tensor:
    """Images (B, C, H, W) under a Gaussian of sigma pixels, borders repeated."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).to(images)
    planes = images.flatten(0, 1)[:, None]
    padded = F.pad(planes, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, weights.view(1, 1, -1, 1))
    return F.conv2d(rows, weights.view(1, 1, 1, -1)).view_as(images)


def _blurred(images: Tensor) -> Tensor:
    return smoothed(images, BLUR_SHARE * min(images.shape[2:])).clamp_(0, 1)


_FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "black": lambda images: images.new_zeros(()).expand_as(images),
    "white": lambda images: images.new_ones(()).expand_as(images),
    "mean": lambda images: images.mean((2, 3), keepdim=True).expand_as(images),
    "blur": _blurred,
}
