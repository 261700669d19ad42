"""Logits of many altered copies of one image, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saliency_lab.frozen import checked_logits, frozen, placed_images

# Pixel values in one forward pass: 27 images of 224×224, 1365 of 32×32.
VALUES = 1 << 22


def parts(count: int, image: Tensor) -> list[slice]:
    """Ranges of copies of an image (C, H, W) that fit into one forward pass."""
    rows = max(1, VALUES // image.numel())
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def altered_logits(
    model: nn.Module, count: int, image: Tensor, altered: Callable[[slice], Tensor]
) -> Tensor:
    """Logits of `count` altered copies of an image.

    One image at a time and in parts that depend on its size alone: whatever batch an image comes
    in, its copies meet the model in the same company.

    Args:
        model: any module from images to logits (N, K).
        count: number of altered copies.
        image: shape (C, H, W).
        altered: from a range of copies to them, shape (n, C, H, W).

    Returns:
        Shape (count, K), detached, in the image's dtype and on its device.
    """
    logits = []
    with torch.inference_mode(False), torch.no_grad(), frozen(model):
        for part in parts(count, image):
            copies = placed_images(model, altered(part))
            logits.append(checked_logits(model(copies), part.stop - part.start).to(image))
    return torch.cat(logits)
