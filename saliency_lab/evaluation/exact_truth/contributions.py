"""What every patch adds to every logit of a classifier that is a sum over patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.frozen import checked_logits, frozen, placed_images
from saliency_lab.models.patch_sum import PatchSum

# How far the mean of the patches' logits may be from the logits, relative to the largest above 1.
_AGREEMENT = 1e-4


def additive_part(model: nn.Module) -> PatchSum:
    """The part of a model that sums over patches.

    Raises:
        UserError: it has none.
    """
    found = [module for module in model.modules() if isinstance(module, PatchSum)]
    if len(found) != 1:
        inner: nn.Module = model
        while isinstance(deeper := getattr(inner, "network", None), nn.Module):
            inner = deeper
        kind = type(getattr(inner, "backbone", inner)).__name__
        raise UserError(
            "Expected `model` to be a sum over patches, whose shares in a logit are known "
            f"(model=patch_sum), but got {kind}"
        )
    return found[0]


def patch_logits(model: nn.Module, images: Tensor) -> Tensor:
    """h of every patch, (B, K, H / patch, W / patch), on the images' device; left unchanged.

    Args:
        model: a PatchSum, or layers around one that act on single pixels before it.
        images: (B, C, H, W) in [0, 1].

    Raises:
        UserError: the model holds no PatchSum, or does more than averaging over its patches.
    """
    part = additive_part(model)
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    handle = part.register_forward_pre_hook(note)
    try:
        with torch.inference_mode(False), torch.no_grad(), frozen(model):
            logits = checked_logits(model(placed_images(model, images).clone()), len(images))
            found = part.patch_logits(seen[-1])
    finally:
        handle.remove()
    scale = max(1.0, float(logits.abs().max()))
    difference = float((found.mean((2, 3)) - logits).abs().max()) / scale
    if not difference <= _AGREEMENT:
        raise UserError(
            "Expected `model` to be the mean of its patches' logits, "
            f"but its logits differ from it by {difference:.1e}"
        )
    return found.to(images.device)


def patch_contributions(model: nn.Module, images: Tensor, baseline: Tensor) -> Tensor:
    """(h_c(patch_p) − h_c(b)) / P, what patch p adds to logit c in place of the patch b.

    In a sum over patches the Shapley value of a patch, its occlusion by b, and the share that the
    last layer reads from it are this one number.

    Args:
        model: see `patch_logits`.
        images: (B, C, H, W) in [0, 1].
        baseline: the patch b, (C, patch, patch) in [0, 1].

    Returns:
        (B, K, H / patch, W / patch), signed, in units of the logit; over the patches it adds up to
        S_c(image) − S_c(an image of b's alone).
    """
    logits = patch_logits(model, images)
    rows, columns = logits.shape[2:]
    tiled = baseline.to(images).repeat(1, rows, columns)[None]
    return (logits - patch_logits(model, tiled)) / (rows * columns)


def mean_patch(images: Tensor, patch: int) -> Tensor:
    """The mean over all patches of images (B, C, H, W): (C, patch, patch)."""
    cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return cut.mean((0, 2, 4))
