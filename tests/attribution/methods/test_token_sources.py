"""Rollout, gradient × attention and LeGrad against transformers written out by hand."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from saliency_lab.attribution.core.layers import chosen_layer
from saliency_lab.attribution.maps import maps
from saliency_lab.attribution.methods.attention_rollout import attention_rollout
from saliency_lab.attribution.methods.grad_cam import grad_cam
from saliency_lab.attribution.methods.gradient_attention import gradient_attention
from saliency_lab.attribution.methods.legrad import legrad
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")

TINY = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 3}


def _vit(**settings) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **{**TINY, **settings})
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.2)
    return model.eval()


def _attended(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a block of pre-norm attention and MLP computes, and its attention weights."""
    attention = block.attn
    normed = F.layer_norm(x, (24,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
    projected = normed @ attention.qkv.weight.T + attention.qkv.bias
    query, key, value = projected.reshape(*x.shape[:2], 3, 3, 8).permute(2, 0, 3, 1, 4)
    weights = torch.einsum("bhid,bhjd->bhij", query, key).div(8**0.5).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    mixed = torch.einsum("bhij,bhjd->bihd", weights, value).flatten(2)
    x = x + mixed @ attention.proj.weight.T + attention.proj.bias
    normed = F.layer_norm(x, (24,), block.norm2.weight, block.norm2.bias, block.norm2.eps)
    hidden = normed @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias, weights


def _embedded(vit: nn.Module, images: Tensor) -> Tensor:
    patches = F.unfold(images, 8, stride=8).mT
    x = patches @ vit.patch_embed.proj.weight.flatten(1).T + vit.patch_embed.proj.bias
    return torch.cat([vit.cls_token.expand(len(x), -1, -1), x], 1) + vit.pos_embed


def _head(vit: nn.Module, token: Tensor) -> Tensor:
    normed = F.layer_norm(token, (24,), vit.norm.weight, vit.norm.bias, vit.norm.eps)
    return normed @ vit.head.weight.T + vit.head.bias


def _by_hand(vit: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, weights = _embedded(vit, images), []
    for block in vit.blocks:
        x, own = _attended(block, x)
        weights.append(own)
    return _head(vit, x[:, 0]), weights


def _on_pixels(tokens: Tensor) -> Tensor:
    return F.interpolate(
        tokens.reshape(-1, 1, 4, 4), size=(32, 32), mode="bilinear", align_corners=False
    )[:, 0]


@pytest.fixture
def pictures(float64: None) -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


TARGETS = torch.tensor([3, 1])


def test_rollout_is_the_product_of_all_blocks(pictures):
    vit = _vit()
    _, weights = _by_hand(vit, pictures)
    eye = torch.eye(17)
    for heads, over in (("mean", lambda w: w.mean(1)), ("max", lambda w: w.max(1).values)):
        product = eye.expand(2, 17, 17)
        for own in weights:
            mixed = over(own)
            mixed = mixed / mixed.sum(-1, keepdim=True)
            product = (0.5 * mixed + 0.5 * eye) @ product
        found = attention_rollout(vit, pictures, TARGETS, heads=heads)
        assert torch.allclose(found, _on_pixels(product[:, 0, 1:]).float(), rtol=1e-5)
    assert found.dtype == torch.float32


def test_rollout_of_even_attention_in_closed_form(pictures):
    # Without queries every token attends to all 17 alike: of the answer, ½³ stays at the class
    # token and the rest has been spread evenly.
    vit = _vit()
    for block in vit.blocks:
        nn.init.zeros_(block.attn.qkv.weight)
    found = attention_rollout(vit, pictures, TARGETS)
    assert torch.allclose(found, torch.full_like(found, (1 - 0.5**3) / 17))


def test_gradient_attention_by_hand(pictures):
    vit = _vit()
    logits, weights = _by_hand(vit, pictures)
    slopes = torch.autograd.grad(logits.gather(1, TARGETS[:, None]).sum(), weights)
    product = torch.eye(17).expand(2, 17, 17)
    for own, slope in zip(weights, slopes, strict=True):
        product = product + (own * slope).clamp(min=0).mean(1) @ product
    field = gradient_attention(vit, pictures)
    assert torch.allclose(field.logits, logits)
    expected = _on_pixels(product[:, 0, 1:])
    assert expected.std() > 0
    assert torch.allclose(field.of(TARGETS), expected[:, None].expand(-1, 3, -1, -1))


def test_legrad_by_hand(pictures):
    vit = _vit()
    x, total = _embedded(vit, pictures), torch.zeros(2, 17)
    for block in vit.blocks:
        x, weights = _attended(block, x.detach().requires_grad_(True))
        score = _head(vit, x.mean(1)).gather(1, TARGETS[:, None]).sum()
        (slope,) = torch.autograd.grad(score, weights)
        total += slope.clamp(min=0).sum((1, 2)) / (3 * 17) / 3
    field = legrad(vit, pictures)
    expected = _on_pixels(total[:, 1:])
    assert torch.allclose(field.of(TARGETS), expected[:, None].expand(-1, 3, -1, -1))
    # The whole model's own logits, not those of one of its blocks.
    assert torch.allclose(field.logits, vit(pictures))


def test_pooled_tokens_are_read_where_they_are_pooled(pictures):
    pooled = _vit(global_pool="avg", class_token=False, reg_tokens=2, fc_norm=True)
    weights = []
    hooks = []
    for block in pooled.blocks:
        block.attn.fused_attn = False
        hooks.append(
            block.attn.attn_drop.register_forward_hook(lambda m, i, o: weights.append(o.detach()))
        )
    pooled(pictures)
    for hook in hooks:
        hook.remove()
    product = torch.eye(18)
    for own in weights:
        product = (0.5 * own.mean(1) + 0.5 * torch.eye(18)) @ product
    found = attention_rollout(pooled, pictures, TARGETS)
    assert torch.allclose(found, _on_pixels(product[:, 2:, 2:].mean(1)).float(), rtol=1e-5)


def test_grad_cam_on_the_patches_of_the_last_norm1(pictures):
    vit = _vit()
    # Without it the map of these targets is 0 everywhere.
    vit.head.weight.data.neg_()
    kept = []
    hook = vit.blocks[-1].norm1.register_forward_hook(lambda m, i, o: kept.append(o))
    score = vit(pictures).gather(1, TARGETS[:, None]).sum()
    hook.remove()
    (slope,) = torch.autograd.grad(score, kept[0])
    alpha = slope[:, 1:].mean(1, keepdim=True)
    expected = _on_pixels((alpha * kept[0][:, 1:]).sum(-1).relu())
    found = grad_cam(vit, pictures, TARGETS)
    assert found.max() > 0
    assert torch.allclose(found, expected.float(), atol=1e-7)


@pytest.mark.parametrize("layer", ["blocks.2.norm2", "blocks.2.attn", "norm"])
def test_grad_cam_where_no_patch_bears_on_the_logits(layer, pictures):
    with pytest.raises(UserError, match=f"but behind '{layer}' only the class token is read"):
        grad_cam(_vit(), pictures, TARGETS, layer=layer)
    assert grad_cam(_vit(), pictures, TARGETS, layer="blocks.1.norm2").shape == (2, 32, 32)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_grad_cam_of_attention_pooling_looks_at_tokens_not_at_heads(qk_norm, pictures):
    vit = _vit(global_pool="map", class_token=False)
    vit.attn_pool = AttentionPoolLatent(24, num_heads=3, qk_norm=qk_norm, norm_layer=nn.LayerNorm)
    assert chosen_layer(vit, pictures, None) == "blocks.2.norm1"
    kept = []
    hook = vit.blocks[-1].norm1.register_forward_hook(lambda m, i, o: kept.append(o))
    logits = vit(pictures)
    hook.remove()
    cams = []
    for target in range(4):
        (slope,) = torch.autograd.grad(logits[:, target].sum(), kept[0], retain_graph=True)
        cams.append(_on_pixels((slope.mean(1, keepdim=True) * kept[0]).sum(-1).relu()))
        found = grad_cam(vit, pictures, torch.full((2,), target))
        assert torch.allclose(found, cams[-1].float(), atol=1e-7)
    assert torch.stack(cams).max() > 1e-4
    with pytest.raises(UserError, match=r"Expected `layer` to be one of patch_embed.proj, but"):
        grad_cam(vit, pictures, TARGETS, layer="attn_pool.v_norm")


@pytest.mark.parametrize("source", [attention_rollout, gradient_attention, legrad])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("vit_small_patch16_18x2_224", [r"two attentions side by side in one block"] * 2),
        (
            "vit_dlittle_patch16_reg1_gap_256",
            [r"6 heads joined to 3 before the values", "two attentions side by side in one block"],
        ),
    ],
)
def test_attentions_side_by_side_are_no_product(name, reasons, fused, source, pictures):
    """timm's parallel blocks add two attentions, differential attention subtracts one."""
    model = timm.create_model(name, num_classes=4, **TINY).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    targets = (TARGETS,) if source is attention_rollout else ()
    with pytest.raises(UserError, match=rf"but got {reasons[fused]}.* in 'blocks\.0") as caught:
        source(model, pictures, *targets)
    assert "\n" not in str(caught.value)


def test_a_wide_image(pictures):
    vit = _vit(img_size=(16, 32))
    field = gradient_attention(vit, pictures[:, :, :16])
    assert field.of(TARGETS).shape == (2, 3, 16, 32)


@pytest.mark.parametrize("source", [gradient_attention, legrad])
def test_every_view(source, pictures):
    found = maps(_vit(), pictures, source, "all").maps
    assert found["original"].std() > 0
    assert torch.equal(found["positive"], found["original"])
    assert torch.equal(found["negative"], torch.zeros_like(found["negative"]))
    assert (found["active"] <= found["original"]).all()


REFUSALS = {
    "resnet": ("resnet18", {"channels": (4, 4, 4, 4)}, "got no attention"),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)},
        r"window attention, 4 windows an image, in 'layers\.0\.blocks\.0\.attn'",
    ),
    "map pooling": (
        "vit_tiny_patch16_224",
        {**TINY, "global_pool": "map", "class_token": False},
        r"1 queries over 16 keys in 'attn_pool'",
    ),
    "max pooling": (
        "vit_tiny_patch16_224",
        {**TINY, "global_pool": "max"},
        r"global_pool token or avg\), but got 'max'",
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("source", [attention_rollout, gradient_attention, legrad])
def test_what_is_refused(source, kind):
    torch.set_default_dtype(torch.float32)
    name, settings, reason = REFUSALS[kind]
    model = timm.create_model(name, num_classes=4, **settings)
    targets = (TARGETS,) if source is attention_rollout else ()
    with pytest.raises(UserError, match=reason) as caught:
        source(model, torch.rand(2, 3, 32, 32), *targets)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())
