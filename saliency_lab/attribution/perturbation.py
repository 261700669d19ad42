"""Logits of many altered copies of one image, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from saliency_lab.engine.frozen import checked_logits, frozen, placed_images

# Pixel values in one forward pass: 27 images of 224×224, 1365 of 32×32.
VALUES = 1 << 22


def altered_logits(
    model: nn.Module, count: int, image: Tensor, altered: Callable[[slice], Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Logits of `count` altered copies of an image.

    One image at a time and chunks that depend on its size alone: whatever batch an image comes
    in, its copies meet the model in the same company.

    Args:
        model: any module from images to logits (N, K).
        count: number of altered copies.
        image: shape (C, H, W).
        altered: from a range of copies to them, shape (n, C, H, W).

    Yields:
        The range, and the logits of its copies, shape (n, K), detached, float32 or wider, on the
        image's device.
    """
    rows = max(1, VALUES // image.numel())
    with torch.inference_mode(False), torch.no_grad(), frozen(model):
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            copies = placed_images(model, altered(part))
            logits = checked_logits(model(copies), part.stop - part.start)
            yield part, logits.to(device=image.device, dtype=image.dtype)


def gathered_logits(
    model: nn.Module, count: int, image: Tensor, altered: Callable[[slice], Tensor]
) -> Tensor:
    """All the logits of `altered_logits`, shape (count, K)."""
    return torch.cat([logits for _, logits in altered_logits(model, count, image, altered)])
