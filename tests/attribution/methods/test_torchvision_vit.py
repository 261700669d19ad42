"""Sources of transformers on torchvision's: against timm's with the same weights, and torchcam."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from saliency_lab.attribution.methods.attention_rollout import attention_rollout
from saliency_lab.attribution.methods.attn_lrp import attn_lrp
from saliency_lab.attribution.methods.grad_cam import grad_cam
from saliency_lab.attribution.methods.gradient_attention import gradient_attention
from saliency_lab.attribution.methods.legrad import legrad
from saliency_lab.attribution.methods.libragrad import libragrad

pytestmark = pytest.mark.usefixtures("float64")

TARGETS = torch.tensor([3, 1])


def _vit() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=32, patch_size=8, depth=3, embed_dim=24,
        num_heads=3,
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.2)
    return model.eval()


def _torchvisions(ours: nn.Module) -> nn.Module:
    theirs = VisionTransformer(32, 8, 3, 3, 24, 96, num_classes=4).eval()
    theirs.load_state_dict(_as_torchvision(ours.state_dict()))
    return theirs


def _as_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj": "conv_proj",
        "blocks.": "encoder.layers.encoder_layer_",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "self_attention.in_proj_",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    }
    found = {}
    for name, value in state.items():
        if name.startswith("norm."):
            name = name.replace("norm", "encoder.ln")
        elif name.startswith("head."):
            name = name.replace("head", "heads.head")
        for old, new in named.items():
            name = name.replace(old, new)
        found[name] = value
    return found


@pytest.fixture
def pictures(float64: None) -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def test_legrad_of_torchcam(pictures):
    torchcam = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    ours = _vit()
    theirs = _torchvisions(ours)
    assert torch.allclose(theirs(pictures), ours(pictures))
    for index, target in enumerate(TARGETS.tolist()):
        image = pictures[index : index + 1]
        with torchcam.LeGrad(theirs, list(theirs.encoder.layers)) as extractor:
            theirs(image.clone().requires_grad_(True))
            expected = extractor(target, normalized=False)
        expected = torch.stack([one.reshape(-1) for one in expected]).mean(0)
        found = legrad(ours, image).of(torch.tensor([target]))[:, 0]
        tokens = expected.reshape(1, 1, 4, 4)
        pixels = F.interpolate(tokens, size=(32, 32), mode="bilinear", align_corners=False)
        assert torch.allclose(found, pixels[:, 0])


def _as_sources(name: str):
    fields = {"gradient_attention": gradient_attention, "legrad": legrad, "libragrad": libragrad}
    fields |= {"attn_lrp": attn_lrp, "cp_lrp": partial(attn_lrp, attention="cp_lrp")}
    if name == "attention_rollout":
        return lambda model, images: attention_rollout(model, images, TARGETS)
    if name == "grad_cam":
        return lambda model, images: grad_cam(model, images, TARGETS, layer=_last_norm(model))
    return lambda model, images: fields[name](model, images).of(TARGETS)


def _last_norm(model: nn.Module) -> str:
    return "blocks.2.norm1" if hasattr(model, "blocks") else "encoder.layers.encoder_layer_2.ln_1"


@pytest.mark.parametrize(
    "name",
    [
        "attention_rollout", "gradient_attention", "legrad", "attn_lrp", "cp_lrp", "libragrad",
        "grad_cam",
    ],
)  # fmt: skip
def test_torchvisions_transformer_has_the_maps_of_timms(name, pictures):
    ours = _vit()
    if name == "grad_cam":  # whose map of these targets is 0 everywhere otherwise
        ours.head.weight.data.neg_()
    theirs = _torchvisions(ours)
    source = _as_sources(name)
    expected, found = source(ours, pictures), source(theirs, pictures)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))
    assert expected.std() > 0
    assert not any(module._forward_hooks for module in theirs.modules())
