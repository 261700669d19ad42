"""Relative sensitivity (RS): how much a logit changes per blackened pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saliency_lab.attribution.maps import chosen_targets
from saliency_lab.errors import UserError
from saliency_lab.frozen import intact_logits
from saliency_lab.inference.engine import PreparedModel


def relative_sensitivity(
    model: nn.Module | PreparedModel, images: Tensor, masks: Tensor, targets: Tensor | None = None
) -> Tensor:
    """RS(mask) = abs(N_a(I) − N_a(I·(1 − mask))) / area(mask), area in pixels.

    Args:
        model: from images (B, C, H, W) to logits (B, K), left unchanged; or one made ready.
        images: floating (B, C, H, W), pixels in [0, 1].
        masks: bool (B, H, W): the pixels that are blackened, in all channels.
        targets: the class a of each image, int64 (B,); None: the predicted one.

    Returns:
        (B,) float64 on the CPU, >= 0, in logits per pixel; NaN where a mask holds no pixel.

    Raises:
        UserError: masks or targets that do not fit the images.

    Source: Rodrigues, Boutry, Najman, "Transforming gradient-based techniques into interpretable
    methods", 2024, RS.
    """
    if masks.dtype != torch.bool or masks.shape != images.shape[:1] + images.shape[2:]:
        raise UserError(
            "Expected `masks` to be bool (B, H, W) like the images, but got "
            f"{tuple(masks.shape)} of {masks.dtype} for images {tuple(images.shape)}."
        )
    masks = masks.to(images.device)
    intact = _logits(model, images)
    chosen = chosen_targets(intact, targets)[:, None]
    blackened = _logits(model, images.masked_fill(masks[:, None], 0))
    change = (intact.double() - blackened.double()).gather(1, chosen)[:, 0].abs().cpu()
    return change / masks.sum((1, 2)).cpu()


def _logits(model: nn.Module | PreparedModel, images: Tensor) -> Tensor:
    if isinstance(model, PreparedModel):
        return model.logits(images)
    return intact_logits(model, images).to(images.device)
