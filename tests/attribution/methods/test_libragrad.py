"""LibraGrad against transformers written out by hand, whose full gradient must be complete.

FullGrad (Srinivas and Fleuret 2019): S = Σ x ∂S/∂x + Σ b ∂S/∂b over the input and all that is
added on the way. It holds for the corrected ways back, and for the plain gradient it does not.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.libragrad import libragrad

pytestmark = pytest.mark.usefixtures("float64")

WIDTH, HEADS, PATCH = 24, 3, 8
TARGETS = torch.tensor([3, 1])
Kept = Callable[[Tensor], Tensor]
KINDS = {"gelu": {}, "gated": {"mlp_layer": SwiGLUPacked}}


def _vit(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=32, patch_size=PATCH, depth=3,
        embed_dim=WIDTH, num_heads=HEADS, **KINDS[kind],
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.05, 0.2)
    return model.eval()


def _norm(x: Tensor, norm: nn.Module, bias: Tensor, constant: Kept) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    size = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return centred / constant(size) * norm.weight + bias


def _half(x: Tensor, constant: Kept) -> Tensor:
    """x, whose slope is halved where `constant` detaches."""
    return x / 2 + constant(x / 2)


def _hidden(kind: str, x: Tensor, constant: Kept) -> Tensor:
    if kind == "gelu":
        return x * constant((1 + torch.erf(x / 2**0.5)) / 2)
    gate, value = x.chunk(2, -1)
    # timm's transformer gives its own activation to the unit, GELU.
    opened = gate * constant((1 + torch.erf(gate / 2**0.5)) / 2)
    return _half(opened, constant) * _half(value, constant)


def _forward(
    kind: str, vit: nn.Module, images: Tensor, biases: dict[str, Tensor], constant: Kept
) -> Tensor:
    """The logits; `constant` is what attention, deviations and gates go through."""
    patches = torch.nn.functional.unfold(images, PATCH, stride=PATCH).mT
    x = patches @ vit.patch_embed.proj.weight.flatten(1).T + biases["patch_embed.proj.bias"]
    first = biases["cls_token"].expand(len(x), -1, -1)
    x = torch.cat([first, x], 1) + biases["pos_embed"]
    for place, block in enumerate(vit.blocks):
        own = {
            name.removeprefix(f"blocks.{place}."): bias
            for name, bias in biases.items()
            if name.startswith(f"blocks.{place}.")
        }
        normed = _norm(x, block.norm1, own["norm1.bias"], constant)
        projected = normed @ block.attn.qkv.weight.T + own["attn.qkv.bias"]
        parts = projected.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT / (WIDTH // HEADS) ** 0.5).softmax(-1)
        mixed = (constant(weights) @ value).transpose(1, 2).flatten(2)
        x = x + mixed @ block.attn.proj.weight.T + own["attn.proj.bias"]
        normed = _norm(x, block.norm2, own["norm2.bias"], constant)
        hidden = normed @ block.mlp.fc1.weight.T + own["mlp.fc1.bias"]
        hidden = _hidden(kind, hidden, constant)
        x = x + hidden @ block.mlp.fc2.weight.T + own["mlp.fc2.bias"]
    answer = _norm(x[:, 0], vit.norm, biases["norm.bias"], constant)
    return answer @ vit.head.weight.T + biases["head.bias"]


def _full_gradient(
    kind: str, vit: nn.Module, images: Tensor, constant: Kept
) -> tuple[Tensor, Tensor, Tensor]:
    """The logit, its slope at the input, and the sum of all that the full gradient holds."""
    pixels = images.clone().requires_grad_(True)
    # A copy for each image, so that each has a slope of its own.
    biases = {
        name: value.detach().expand(len(images), *[-1] * value.dim()).clone().requires_grad_(True)
        for name, value in vit.named_parameters()
        if name.endswith("bias") or name in ("cls_token", "pos_embed")
    }
    rows = []
    for row in range(len(images)):
        own = {name: value[row] for name, value in biases.items()}
        rows.append(_forward(kind, vit, pixels[[row]], own, constant))
    logits = torch.cat(rows)
    assert torch.allclose(logits, vit(images))
    chosen = logits.gather(1, TARGETS[:, None])[:, 0]
    slope, *slopes = torch.autograd.grad(chosen.sum(), [pixels, *biases.values()])
    total = (slope * pixels).flatten(1).sum(1)
    for bias, own in zip(biases.values(), slopes, strict=True):
        total = total + (bias * own).flatten(1).sum(1)
    return chosen.detach(), slope, total.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_gradient_is_complete_and_libragrad_is_its_part_at_the_input(kind: str) -> None:
    vit = _vit(kind)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    logits, slope, total = _full_gradient(kind, vit, images, lambda x: x.detach())
    assert torch.allclose(total, logits, rtol=1e-10)
    found = libragrad(vit, images).of(TARGETS)
    # Units within 1e-6 of 0 have the slope of GELU at 1e-6.
    assert torch.allclose(found, slope, rtol=1e-9, atol=1e-10)
    assert slope.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_gradient_is_not(kind: str) -> None:
    vit = _vit(kind)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    logits, slope, total = _full_gradient(kind, vit, images, lambda x: x)
    assert torch.allclose(gradient(vit, images).of(TARGETS), slope, rtol=1e-9, atol=1e-12)
    assert ((total - logits).abs() > 0.1 * logits.abs()).all()
