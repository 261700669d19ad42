"""Whether a classifier uses the evidence that a mask shows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saliency_lab.evaluation.perturbation import require_finite_altered

# A mask is moved by quarters of the image to where it covers the least of the evidence.
_STEPS = 4


def elsewhere(masks: Tensor) -> Tensor:
    """Masks of the same shape beside the evidence, bool (B, H, W).

    Each mask is moved round the image by multiples of a quarter of its height and width, to the
    first place where it overlaps itself the least; what still overlaps is left out.
    """
    height, width = masks.shape[1:]
    moves = [(row, column) for row in range(_STEPS) for column in range(_STEPS)][1:]
    moved = torch.stack(
        [
            masks.roll((row * height // _STEPS, column * width // _STEPS), (1, 2))
            for row, column in moves
        ]
    )
    best = (moved & masks).sum((2, 3)).argmin(0)
    return moved[best, torch.arange(len(masks), device=masks.device)] & ~masks


def flips(
    logits: Callable[[Tensor], Tensor], images: Tensor, covered: Tensor, fill: Tensor
) -> Tensor:
    """Whether covering these pixels changes the predicted class, bool (B,).

    Args:
        logits: of images (B, C, H, W), (B, K).
        images: in [0, 1].
        covered: bool (B, H, W).
        fill: what covers them, (B, C, H, W).

    Raises:
        NonFiniteAlteredError: the logits of some covered images are not finite.
    """
    before = logits(images)
    after = logits(torch.where(covered[:, None], fill, images))
    require_finite_altered(after, before.sum(1), "images with covered pixels")
    return after.argmax(1) != before.argmax(1)
