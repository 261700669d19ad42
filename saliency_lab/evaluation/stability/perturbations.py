"""Small changes of an image that leave its content, and how its maps are laid back over."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError

Kind = Literal["gaussian", "jpeg", "shift", "flip", "rotation"]

KINDS: tuple[Kind, ...] = ("gaussian", "jpeg", "shift", "flip", "rotation")

# Those after which every pixel is where it was.
IN_PLACE: frozenset[str] = frozenset({"gaussian", "jpeg"})


def _same(maps: Tensor) -> Tensor:
    return maps


@dataclass(frozen=True)
class Perturbed:
    """Perturbed images, and how maps of them are compared with maps of the intact images.

    Attributes:
        images: (B, C, H, W) in [0, 1].
        restored: maps (B, H, W) of these images to maps (B, H, W) in the intact images' places.
        margin: pixels at each border for which the perturbed image has no content.
    """

    images: Tensor
    restored: Callable[[Tensor], Tensor] = _same
    margin: int = 0

    def inner(self, maps: Tensor) -> Tensor:
        """Maps without the margin, (B, H − 2 margin, W − 2 margin)."""
        height, width = maps.shape[1:]
        return maps[:, self.margin : height - self.margin, self.margin : width - self.margin]


def noisy(images: Tensor, deviation: float, generator: SampleGenerator) -> Perturbed:
    """Gaussian noise of this standard deviation on every pixel and channel, clamped to [0, 1]."""
    noise = generator.normal(*images.shape[1:]).to(images)
    return Perturbed((images + deviation * noise).clamp(0, 1))


def compressed(images: Tensor, quality: int) -> Perturbed:
    """Each image through JPEG of this quality (1 to 95), rounded to 8 bits on the way.

    Raises:
        UserError: images of neither one nor three channels.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(
            f"Expected images of 1 or 3 channels for JPEG, but got {images.shape[1]} channels."
        )
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    through = np.stack([_through_jpeg(one, quality) for one in pixels])
    return Perturbed(torch.from_numpy(through).permute(0, 3, 1, 2).to(images) / 255)


def shifted(images: Tensor, pixels: int, generator: SampleGenerator) -> Perturbed:
    """Each image moved by that many pixels along both axes, each way up to chance; the border is
    repeated where nothing was."""
    signs = torch.where(generator.uniform(2) < 0.5, -1, 1).to(images.device) * pixels
    return Perturbed(
        _moved(images, signs), lambda maps: _moved(maps[:, None], -signs)[:, 0], margin=pixels
    )


def flipped(images: Tensor) -> Perturbed:
    """Each image mirrored left to right."""
    return Perturbed(images.flip(3), lambda maps: maps.flip(2))


def rotated(images: Tensor, degrees: float, generator: SampleGenerator) -> Perturbed:
    """Each image turned about its centre by this angle, clockwise or not up to chance, bilinear.

    Maps are turned back bilinearly, too, which smooths them: a map that is noise from pixel to
    pixel loses similarity by that alone.
    """
    angles = torch.where(generator.uniform(1)[:, 0] < 0.5, -1.0, 1.0) * math.radians(degrees)
    angles = angles.to(images)
    margin = rotation_margin(max(images.shape[2:]), degrees)
    return Perturbed(
        _turned(images, angles), lambda maps: _turned(maps[:, None], -angles)[:, 0], margin
    )


def rotation_margin(side: int, degrees: float) -> int:
    """Pixels at each border that a turn may lose, of images with this longer side."""
    return math.ceil(side / 2 * math.sin(math.radians(abs(degrees)))) + 1


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        file, "JPEG", quality=quality
    )
    return np.asarray(Image.open(file)).reshape(pixels.shape)


def _moved(images: Tensor, steps: Tensor) -> Tensor:
    """Images (B, C, H, W) moved down and right by steps (B, 2) whole pixels."""
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) - steps[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - steps[:, 1:]).clamp(0, width - 1)
    first = torch.arange(len(images), device=images.device)[:, None, None, None]
    planes = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return images[first, planes, rows[:, None, :, None], columns[:, None, None, :]]


def _turned(images: Tensor, angles: Tensor) -> Tensor:
    """Images (B, C, H, W) turned by angles (B,) in radians; the border is repeated."""
    height, width = images.shape[2:]
    cosine, sine = angles.cos(), angles.sin()
    zero = torch.zeros_like(cosine)
    # Coordinates run from −1 to 1 along either side, so that a turn must know their lengths.
    rows = [
        torch.stack([cosine, -sine * (height / width), zero], 1),
        torch.stack([sine * (width / height), cosine, zero], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
