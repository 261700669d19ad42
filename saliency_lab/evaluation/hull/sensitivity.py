"""Relative sensitivity (RS): how much a logit changes per blackened pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.evaluation.perturbation import (
    Forward,
    lent,
    require_finite_altered,
    target_logits,
)
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import given_images, given_tensor


def relative_sensitivity(
    model: nn.Module | PreparedModel,
    images: Tensor,
    masks: Tensor,
    targets: Tensor | int | None = None,
) -> Tensor:
    """RS(mask) = abs(N_a(I) − N_a(I·(1 − mask))) / area(mask), area in pixels.

    Args:
        model: from images (B, C, H, W) to logits (B, K), left unchanged; or one made ready.
        images: floating (B, C, H, W), pixels in [0, 1]; tensors or NumPy arrays, as masks are.
        masks: bool (B, H, W): the pixels that are blackened, in all channels.
        targets: the class a of each image, int64 (B,), or one for all; None: the predicted one.

    Returns:
        (B,) float64 on the CPU, >= 0, in logits per pixel; NaN where a mask holds no pixel.

    Raises:
        UserError: images or logits that are out of range or not finite, masks or targets that do
            not fit the images.
        NonFiniteAlteredError: the model's logits of some blackened images are not finite.

    Source: Rodrigues, Boutry, Najman, "Transforming gradient-based techniques into interpretable
    methods", 2024, RS.
    """
    images, masks = given_images(images), given_tensor(masks, "masks", "(B, H, W)")
    if masks.dtype != torch.bool or masks.shape != images.shape[:1] + images.shape[2:]:
        raise UserError(
            "Expected `masks` to be bool (B, H, W) like the images, but got "
            f"{tuple(masks.shape)} of {masks.dtype} for images {tuple(images.shape)}."
        )
    with lent(model, images, targets) as (forward, intact, classes):
        return changes_per_pixel(forward, images, masks, intact, classes)


def changes_per_pixel(
    forward: Forward, images: Tensor, masks: Tensor, intact: Tensor, targets: Tensor
) -> Tensor:
    """`relative_sensitivity` where the logits (B, K) of the intact images are known."""
    masks = masks.to(images.device)
    before = target_logits(intact, targets)
    blackened = target_logits(forward(images.masked_fill(masks[:, None], 0)), targets)
    require_finite_altered(blackened, before, "images with blackened pixels")
    return (before - blackened).abs().cpu() / masks.sum((1, 2)).cpu()
