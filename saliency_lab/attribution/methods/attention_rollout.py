"""Attention rollout: how much of each patch reaches the token that the answer is read from."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from saliency_lab.attribution.core.attention import global_attention, recorded_attention
from saliency_lab.attribution.core.graph_field import leaf, recording
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.tokens import token_layout
from saliency_lab.frozen import checked_logits


def attention_rollout(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    heads: Literal["mean", "max", "min"] = "mean",
    residual: Annotated[float, Ge(0), Lt(1)] = 0.5,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """The product over blocks of (1 − r) A + r I, read at the token that is classified.

    Abnar & Zuidema 2020, section 3, equation 1 (r = ½). It knows nothing of values, of what
    stands between attentions, or of classes: every class has the same map, so there are no views.

    Args:
        model: a transformer with global attention in every block (ViT, DeiT, BEiT, EVA, hybrids).
        images: shape (B, C, H, W), in [0, 1].
        targets: not used.
        heads: how A is taken over the heads; rows of a maximum or minimum are scaled to sum to 1.
        residual: r, the share that goes past the attention.
        generator: not used.

    Returns:
        Shape (B, H, W), float32, in [0, 1]; with the prefix tokens' shares, an image's tokens sum
        to 1. Bilinear between the patches.

    Raises:
        UserError: a model without such attention (see `attention.global_attention`), or whose
            tokens are not known (see `tokens.token_layout`).
    """
    with recording(model), recorded_attention(model) as calls:
        checked_logits(model(leaf(model, images).clone()), len(images))
    weights = [one.detach() for one in global_attention(calls, len(images), "attention_rollout")]
    layout = token_layout(model, calls[-1].name, weights[-1], images.shape[2:])
    tokens = rolled_out(weights, layout.readout, heads, residual)
    return layout.pixels(tokens, images.shape[2:])[:, 0].to(images.device).float()


def rolled_out(
    weights: list[Tensor], readout: Tensor, heads: Literal["mean", "max", "min"], residual: float
) -> Tensor:
    """The rolled-out attention of a readout (N,) to every token, shape (B, N).

    Args:
        weights: attention of each block, (B, heads, N, N), first block first.
        readout: shape (N,).
        heads, residual: see `attention_rollout`.
    """
    flow = readout.expand(len(weights[0]), 1, -1)
    # From the answer backwards, a row of the product is all that is ever needed.
    for block in reversed(weights):
        mixed = {"mean": block.mean, "max": block.amax, "min": block.amin}[heads](1)
        mixed = mixed / mixed.sum(-1, keepdim=True).clamp_min(torch.finfo(mixed.dtype).tiny)
        flow = (1 - residual) * (flow @ mixed) + residual * flow
    return flow[:, 0]
