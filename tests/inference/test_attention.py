"""Attention with a backward pass of its own: values, gradients, and where it is put."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from saliency_lab.attribution.core.attention import attention_in_the_open
from saliency_lab.inference.attention import attention, with_quick_attention
from saliency_lab.inference.engine import Engine
from saliency_lab.inference.folding import folded_copy

SHAPE = (2, 3, 7, 4)


def _inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    stream = torch.Generator().manual_seed(0)
    return [
        torch.randn(SHAPE, generator=stream, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    ]


def _masks() -> dict[str, Tensor | None]:
    stream = torch.Generator().manual_seed(1)
    seen = torch.rand(7, 7, generator=stream) < 0.6
    seen.fill_diagonal_(True)
    bias = torch.randn(1, 3, 7, 7, generator=stream, dtype=torch.float64)
    return {"none": None, "bias": bias, "truth values": seen}


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", _masks().values(), ids=_masks())
def test_values_and_gradients_are_those_of_the_operations_one_by_one(
    mask: Tensor | None, scale: float | None
) -> None:
    inputs, weight = _inputs(), torch.randn(SHAPE, dtype=torch.float64)
    ours = attention(*inputs, mask, scale)
    plain = attention_in_the_open(*inputs, mask, scale=scale)
    assert torch.allclose(ours, plain, rtol=0, atol=1e-14)
    for found, expected in zip(
        torch.autograd.grad(ours, inputs, weight),
        torch.autograd.grad(plain, inputs, weight),
        strict=True,
    ):
        assert torch.allclose(found, expected, rtol=0, atol=1e-13)


def test_the_gradient_has_a_gradient() -> None:
    assert torch.autograd.gradcheck(lambda *qkv: attention(*qkv, None, None), _inputs())
    assert torch.autograd.gradgradcheck(lambda *qkv: attention(*qkv, None, None), _inputs())


def test_in_bfloat16_it_is_as_near_to_the_truth_as_pytorchs_own() -> None:
    stream = torch.Generator().manual_seed(2)
    weight = torch.randn(SHAPE, dtype=torch.float64, generator=stream)
    exact = torch.autograd.grad(attention_in_the_open(*(true := _inputs())), true, weight)

    def error(outcome: Tensor, inputs: list[Tensor]) -> float:
        found = torch.autograd.grad(outcome, inputs, weight.bfloat16())
        return max(float((a - b).square().mean().sqrt()) for a, b in zip(found, exact, strict=True))

    low = _inputs(torch.bfloat16)
    ours = error(attention(*low, None, None), low)
    assert ours < 2 * error(F.scaled_dot_product_attention(*low), low)
    assert ours < 0.02


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"]
)
def test_a_copy_in_bfloat16_has_it_in_every_block(name: str) -> None:
    arguments = {"img_size": 32, "patch_size": 8, "num_classes": 3, "depth": 2, "embed_dim": 24}
    model = timm.create_model(name, num_heads=3, **arguments).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prepared = Engine(precision="bf16").prepare(model, images)
    assert _targets(prepared.model) == [attention] * 2
    assert prepared.signs is not None
    assert prepared.signs > 0.95
    exact = Engine().prepare(model, images)
    assert _targets(exact.model) == [F.scaled_dot_product_attention] * 2


class _Asks(nn.Module):
    """Attention of an image's rows, with what is asked beside query, key and value."""

    def __init__(self, **asked: object) -> None:
        super().__init__()
        self.asked = asked

    def forward(self, images: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(images, images, images, **self.asked).mean((1, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked", [{"is_causal": True}, {"dropout_p": 0.2}, {"enable_gqa": True}], ids=str
)
def test_an_attention_that_asks_for_more_stays_what_it_is(asked: dict[str, object]) -> None:
    changed = with_quick_attention(folded_copy(_Asks(**asked)))
    assert _targets(changed) == [F.scaled_dot_product_attention]
    assert _targets(with_quick_attention(folded_copy(_Asks(scale=0.2)))) == [attention]


def _targets(model: nn.Module) -> list[object]:
    assert isinstance(model, fx.GraphModule)
    wanted = (attention, F.scaled_dot_product_attention)
    return [node.target for node in model.graph.nodes if node.target in wanted]
