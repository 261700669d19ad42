"""LeGrad: how sensitive each block's own answer is to its attention."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.attention import (
    AttentionCall,
    global_attention,
    recorded_attention,
)
from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import chosen_scores, leaf, recording
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.tokens import TokenField, token_layout
from saliency_lab.errors import UserError
from saliency_lab.frozen import checked_logits, intact_logits


def legrad(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """Mean over blocks l, heads and queries of (∂s_c^l/∂A^l)⁺.

    Bousselham et al. 2024, section 3, equations 5 to 8: s^l is what the model's own head says of
    the mean over all tokens after block l. One forward pass answers for all blocks at once (the
    head is given every block's tokens in place of the last one's), in which each block starts
    from a copy of its input; so one backward per class reaches each block's own attention only.

    Args:
        model: a transformer with global attention in every block (ViT, DeiT, BEiT, EVA, hybrids).
        images: shape (B, C, H, W), in [0, 1].
        generator: not used.

    Returns:
        A field that is never negative, because of the ⁺: the negative view is 0 everywhere; in
        logits per unit of attention, not scaled to [0, 1] as in the paper. Bilinear between the
        patches, the same in every channel.

    Raises:
        UserError: as in `attention_rollout`, or blocks that do not follow one another.
    """
    batch = len(images)
    with recording(model):
        with recorded_attention(model) as calls:
            model(leaf(model, images).clone())
        weights = global_attention(calls, batch, "legrad")
        layout = token_layout(model, calls[-1].name, weights[-1], images.shape[2:])
        blocks = block_names(model, calls)
        del calls[:], weights
        with recorded_attention(model) as calls, blocks_on_their_own(model, blocks):
            scores = checked_logits(model(leaf(model, images).clone()), len(blocks) * batch)
    weights = [call.weights for call in calls]

    def tokens(classes: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            slopes = torch.autograd.grad(
                chosen_scores(scores, classes.repeat(len(blocks))),
                weights,
                retain_graph=True,
                materialize_grads=True,
            )
        return torch.stack([slope.relu().mean((1, 2)) for slope in slopes]).mean(0)

    return TokenField(intact_logits(model, images), layout, images, tokens)


def block_names(model: nn.Module, calls: list[AttentionCall]) -> list[str]:
    """The blocks that hold the attentions, one each, members of one list of the model.

    Raises:
        UserError: they lie in several lists, or one holds several.
    """
    names = []
    for call in calls:
        name = call.name
        # blocks.3 in timm, encoder_layer_3 in torchvision.
        while name and not re.fullmatch(r"(.*_)?\d+", name.rpartition(".")[2]):
            name = name.rpartition(".")[0]
        names.append(name)
    lists = {name.rpartition(".")[0] for name in names}
    if len(lists) != 1 or len(set(names)) != len(names) or not all(names):
        raise UserError(
            "Expected the attentions of `model` to lie in blocks of one list, one in each, because "
            f"legrad asks the head about each block, but got {', '.join(sorted(lists)) or 'none'}."
        )
    return names


@contextmanager
def blocks_on_their_own(model: nn.Module, blocks: list[str]) -> Iterator[None]:
    """Each block starts from a copy of its input; the head gets the mean token of all of them.

    In the place of the last block's tokens (B, N, D) stand those of every block, (L · B, N, D),
    each token replaced by the mean, so that the head gives the same whichever it reads.
    """
    outputs: list[Tensor] = []

    def apart(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].detach().requires_grad_(True), *inputs[1:])

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    def every(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        means = torch.cat([one.mean(1, keepdim=True) for one in outputs])
        return means.expand(-1, output.shape[1], -1)

    modules = [model.get_submodule(name) for name in blocks]
    hooks = [module.register_forward_pre_hook(apart) for module in modules]
    hooks += [module.register_forward_hook(keep) for module in modules]
    hooks.append(modules[-1].register_forward_hook(every))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
