"""Gradient times attention, rolled out over the blocks of a transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.attention import global_attention, recorded_attention
from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import chosen_scores, leaf, recording
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.tokens import TokenField, token_layout
from saliency_lab.frozen import checked_logits


def gradient_attention(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """R ← R + Ā R from R = I, with Ā = mean over heads of (∂S_c/∂A ⊙ A)⁺, block by block.

    Chefer, Gur, Wolf 2021, "Generic attention-model explainability …", equations 5 and 6; the
    row of R that is read is that of the classified token, or the patches' mean where the model
    pools so. One forward, then one backward per class, which ends at the first attention.

    Args:
        model: a transformer with global attention in every block (ViT, DeiT, BEiT, EVA, hybrids).
        images: shape (B, C, H, W), in [0, 1].
        generator: not used.

    Returns:
        A field that is never negative, because of the ⁺: the negative view is 0 everywhere. Its
        scale has no unit. Bilinear between the patches, the same in every channel.

    Raises:
        UserError: as in `attention_rollout`.
    """
    with recording(model), recorded_attention(model) as calls:
        scores = checked_logits(model(leaf(model, images).clone()), len(images))
    weights = global_attention(calls, len(images), "gradient_attention")
    layout = token_layout(model, calls[-1].name, weights[-1], images.shape[2:])

    def tokens(classes: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            slopes = torch.autograd.grad(
                chosen_scores(scores, classes), weights, retain_graph=True, materialize_grads=True
            )
        return relevance(slopes, [one.detach() for one in weights], layout.readout)

    return TokenField(scores, layout, images, tokens)


def relevance(
    slopes: tuple[Tensor, ...] | list[Tensor], weights: list[Tensor], readout: Tensor
) -> Tensor:
    """The readout's row (B, N) of the product over blocks of I + Ā.

    A token's own 1, which the recursion starts from, is left out where a patch is read: it would
    be the same for every patch, class and image.

    Args:
        slopes, weights: ∂S/∂A and A of each block, (B, heads, N, N), first block first.
        readout: shape (N,).
    """
    # What comes on top of the readout is often far below its rounding, so it is kept apart.
    gained = torch.zeros_like(weights[0][:, 0, :1])
    for slope, weight in zip(reversed(slopes), reversed(weights), strict=True):
        gained = gained + (readout + gained) @ (slope * weight).relu().mean(1)
    return gained[:, 0]
