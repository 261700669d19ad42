"""The copy of a model in bfloat16 that maps and scores are computed with, and what it costs."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from saliency_lab.frozen import frozen, placed_images
from saliency_lab.inference.attention import with_quick_attention
from saliency_lab.inference.folding import packed_copy

log = logging.getLogger(__name__)

# Images of the first batch whose gradients are compared.
_COMPARED = 8


def bf16_model(folded: GraphModule, sample: Tensor) -> nn.Module:
    """A folded model in bfloat16; on the CPU with an attention whose gradient is quick, and with
    packed convolutions where oneDNN has them.

    Args:
        folded: a folded copy, which is changed.
        sample: images (B, C, H, W) that copies are tried on, on the model's device.
    """
    low = folded.bfloat16()
    if sample.device.type != "cpu":
        return low
    low = with_quick_attention(low)
    try:
        packed = packed_copy(low, sample.bfloat16())
        _target_gradient(packed, sample[:1])
    except RuntimeError as error:
        log.info("bfloat16 without packed convolutions: %s", str(error).strip().splitlines()[0])
        return low
    return packed


def sign_agreement(model: nn.Module, exact: nn.Module, sample: Tensor) -> float:
    """How often the gradient of the predicted logit has the sign that it has in full precision.

    Args:
        model: the copy in low precision.
        exact: the model that it is a copy of, in full precision.
        sample: images (B, C, H, W); a few of them are compared.

    Returns:
        The share of pixels and channels with equal signs, in [0, 1].
    """
    images = sample[:_COMPARED]
    low, high = (_target_gradient(one, images) for one in (model, exact))
    return float((low.sign() == high.sign()).float().mean())


def _target_gradient(model: nn.Module, images: Tensor) -> Tensor:
    """Gradient of each image's highest logit, (B, C, H, W) float32."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        start = placed_images(model, images).detach().clone().requires_grad_(True)
        best = model(start.clone()).amax(1).sum()
        (slope,) = torch.autograd.grad(best, start, materialize_grads=True)
    return slope.float()
