from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import AttentionExtract
from torch import nn

from saliency_lab.attribution.core.attention import (
    AttentionCall,
    attention_in_the_open,
    global_attention,
    recorded_attention,
)
from saliency_lab.attribution.core.tokens import token_grid, token_layout
from saliency_lab.errors import UserError

TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"]
)
def test_the_weights_that_timm_extracts(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **TINY).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with recorded_attention(model) as calls:
        logits = model(images)
    assert [call.name for call in calls] == ["blocks.0.attn", "blocks.1.attn"]
    assert all(module.fused_attn for module in model.modules() if hasattr(module, "fused_attn"))
    torch.testing.assert_close(logits, model(images))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    expected = AttentionExtract(model, method="hook", hook_type="forward")(images)
    for call, one in zip(calls, expected.values(), strict=True):
        torch.testing.assert_close(call.weights, one)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(1, 1, 5, 5)},
        {"attn_mask": torch.rand(5, 5).lt(0.7) | torch.eye(5).bool()},
    ],
)
def test_attention_in_the_open_is_torchs(options):
    query, key, value = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)
    if "attn_mask" in options and options["attn_mask"].is_floating_point():
        options = {"attn_mask": options["attn_mask"].double()}
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention_in_the_open(query, key, value, **options), expected)


def test_grouped_queries():
    query, (key, value) = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 2, 5, 6)
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    found = attention_in_the_open(query, key, value, enable_gqa=True)
    torch.testing.assert_close(found, expected)


def test_nothing_is_left_behind_after_a_failure():
    model = nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1))
    with pytest.raises(RuntimeError, match="shapes"), recorded_attention(model):
        model(torch.rand(2, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attention_of_another_kind_is_refused():
    def weights(*shape: int) -> list[AttentionCall]:
        first = AttentionCall("blocks.0.attn", torch.rand(2, 3, 5, 5))
        return [first, AttentionCall("late.attn", torch.rand(*shape))]

    assert len(global_attention(weights(2, 1, 5, 5), 2, "rollout")) == 2
    for shape, reason in (
        ((8, 3, 5, 5), "window attention, 4 windows an image, in 'late.attn'"),
        ((2, 3, 1, 5), "1 queries over 5 keys in 'late.attn'"),
        ((2, 3, 4, 4), "stages of 5 and 4 tokens, the second in 'late.attn'"),
        ((2, 5), r"a softmax over \(2, 5\) in 'late.attn'"),
    ):
        with pytest.raises(UserError, match=f"because rollout follows tokens .* {reason}"):
            global_attention(weights(*shape), 2, "rollout")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", ["no", "bool", "per head"])
def test_torchs_multi_head_attention_in_the_open(bias, masked):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True).double().eval()
    tokens = torch.rand(2, 5, 12, dtype=torch.float64, requires_grad=True)
    masks = {
        "no": None,
        "bool": torch.rand(5, 5).triu() > 0.5,
        "per head": torch.randn(6, 5, 5, dtype=torch.float64),
    }
    asked = {"attn_mask": masks[masked]}
    expected, mean = module(tokens, tokens, tokens, **asked)
    with recorded_attention(nn.Sequential(module)) as calls:
        found, shown = module(tokens, tokens, tokens, **asked)
        module(tokens, tokens, tokens, need_weights=False, **asked)
    assert torch.allclose(found, expected)
    assert torch.allclose(shown, mean)
    assert [call.weights.shape for call in calls] == [(2, 3, 5, 5)] * 2
    assert torch.allclose(calls[0].weights.mean(1), mean)
    slopes = [torch.autograd.grad(one.square().sum(), tokens)[0] for one in (found, expected)]
    assert torch.allclose(*slopes)


def test_a_multi_head_attention_that_is_no_self_attention_over_images_is_refused():
    module = nn.MultiheadAttention(12, 3, add_bias_kv=True, batch_first=True).eval()
    tokens = torch.rand(2, 5, 12, requires_grad=True)
    plain = nn.MultiheadAttention(12, 3).eval()
    padding = torch.zeros(2, 5, dtype=torch.bool)
    calls = (
        (lambda: module(tokens, tokens, tokens), "bias_k, bias_v"),
        (lambda: plain(tokens[0], tokens[0], tokens[0]), "tokens without a batch"),
        (lambda: plain(*[tokens.mT.mT.transpose(0, 1)] * 3, key_padding_mask=padding), "padding"),
    )
    for call, reason in calls:
        with recorded_attention(plain), pytest.raises(UserError, match=reason):
            call()


def test_grids():
    assert token_grid(196, (224, 224)) == (14, 14)
    assert token_grid(8, (16, 32)) == (2, 4)
    assert token_grid(15, (32, 32)) is None
    assert token_grid(0, (32, 32)) is None


def test_which_tokens_are_read():
    weights = torch.rand(2, 3, 18, 18)
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **TINY)
    layout = token_layout(distilled, "blocks.1.attn", weights, (32, 32))
    assert (layout.prefix, layout.grid) == (2, (4, 4))
    assert layout.readout.tolist() == [0.5, 0.5, *[0.0] * 16]
    bare = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(UserError, match="num_prefix_tokens"):
        token_layout(bare, "0", weights, (32, 32))
    with pytest.raises(UserError, match="to be 2 and a grid over 32×32 pixels, but got 19"):
        token_layout(distilled, "blocks.1.attn", torch.rand(2, 3, 19, 19), (32, 32))
