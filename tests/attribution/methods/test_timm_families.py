"""Every method on ten families of timm, unmodified: it works or says why not, and undoes itself."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.layers
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from saliency_lab.attribution.core.estimate import EstimatedMaps
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.gad import SupportModels, needs_support
from saliency_lab.config.binding import bound_arguments
from saliency_lab.errors import UserError

CONF = Path(__file__).resolve().parents[3] / "conf" / "method"
GIVEN = ("model", "images", "targets", "generator")
SMALL = {
    "samples": 3, "steps": 2, "segments": 9, "window": 0.5, "stride": 0.5, "least": 2, "most": 3,
}  # fmt: skip
IDS = ("cat/7", "dog/1")
TARGETS = torch.tensor([0, 2])

TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {**TINY, "qk_norm": True, "reg_tokens": 2}),
    "deit3": ("deit3_small_patch16_224", TINY),
    "beit": ("beit_base_patch16_224", TINY),
    "eva02": ("eva02_tiny_patch14_224", {**TINY, "attn_type": "rope"}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 2, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "efficientnet": ("efficientnet_b0", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "resnet": ("resnet18", {"channels": (8, 16, 16, 32)}),
    "regnet": ("regnety_002", {}),
}
TRANSFORMERS = ("vit", "deit3", "beit", "eva02")

# Method → family → the words that say why; everything else has to work.
ALL_BUT_RELU = (*TRANSFORMERS, "swin", "convnext", "efficientnet")
NO_ATTENTION = dict.fromkeys(
    ("convnext", "efficientnet", "mobilenetv3", "resnet", "regnet"), "but got no attention"
)
GLOBAL_ATTENTION = {"swin": "got window attention, 16 windows an image", **NO_ATTENTION}
RELU_ONLY = {
    **dict.fromkeys(ALL_BUT_RELU, r"but got none \(its activations are (gelu|silu)\)"),
    "mobilenetv3": r"activations of other kinds as well \(hardswish\)",
}
NORMS = dict.fromkeys((*TRANSFORMERS, "swin", "convnext"), "got layer_norm, for which")
REFUSED: dict[str, dict[str, str]] = {
    "attention_rollout": GLOBAL_ATTENTION,
    "gradient_attention": GLOBAL_ATTENTION,
    "legrad": GLOBAL_ATTENTION,
    "deconvnet": RELU_ONLY,
    "guided_backprop": RELU_ONLY,
    "guided_grad_cam": RELU_ONLY,
    "lrp": {
        **NORMS,
        "efficientnet": "got sigmoid, for which lrp_epsilon has none",
        "mobilenetv3": "got hardsigmoid, for which lrp_epsilon has none",
        "regnet": "got sigmoid, for which lrp_epsilon has none",
    },
    "deeplift": {
        **NORMS,
        **dict.fromkeys(
            ("efficientnet", "mobilenetv3", "regnet"),
            "got mul of two activations, for which deeplift has none",
        ),
    },
}


def _components() -> dict[str, dict[str, Any]]:
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONF.glob("*.yaml"))}
    # Shorthands for a view have no target of their own; a file's maps ask no network.
    del found["file"]
    return {name: component for name, component in found.items() if "_target_" in component}


COMPONENTS = _components()


def _source(name: str) -> partial[Any]:
    component = copy.deepcopy(COMPONENTS[name])
    for part in (component, component.get("base", {})):
        part.update({key: value for key, value in SMALL.items() if key in part})
    target, arguments = bound_arguments(component, "method", GIVEN)
    return partial(target, **arguments)


def _network(family: str) -> nn.Module:
    name, settings = FAMILIES[family]
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=3, **settings)
    if family == "deit3":
        for block in model.blocks:
            block.attn.gate = nn.Linear(24, 24)
    for parameter in model.parameters():
        # Else layer scales of 1e-5 and biases of 0 leave hardly anything to attribute.
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
    nn.init.uniform_(model.get_classifier().weight, 0, 0.1)
    model.train()
    next(model.parameters()).requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {}


# What other programs replace for the whole process.
SHARED = (nn.LayerNorm, nn.GELU, nn.Softmax, nn.ReLU, nn.MultiheadAttention, nn.Module)
TIMMS = (timm.layers.LayerNorm, timm.layers.Attention, timm.layers.AttentionRope)


def _state(model: nn.Module) -> tuple[Any, ...]:
    return (
        [(name, value._version, value.data_ptr()) for name, value in model.state_dict().items()],
        [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        [
            (
                type(module),
                type(module).forward,
                sorted(module.__dict__),
                module.training,
                getattr(module, "inplace", None),
                getattr(module, "fused_attn", None),
                len(module._forward_hooks) + len(module._forward_pre_hooks),
                len(module._backward_hooks) + len(module._backward_pre_hooks),
            )
            for module in model.modules()
        ],
        [(kind.forward, kind.__call__) for kind in (*SHARED, *TIMMS)],
        (F.scaled_dot_product_attention, F.softmax, F.layer_norm, F.relu, Tensor.softmax),
        (timm.layers.use_fused_attn(), torch.is_grad_enabled()),
    )


def _attribution(source: partial[Any], model: nn.Module, images: Tensor) -> Tensor:
    generator = SampleGenerator(42, IDS)
    if needs_support(source):
        source = partial(source, support=SupportModels((model,), ()))
    if "targets" in inspect.signature(source).parameters:
        output = source(model, images, TARGETS, generator=generator)
        return output.maps if isinstance(output, EstimatedMaps) else output
    field = source(model, images, generator=generator)
    assert field.logits.shape == (2, 3)
    return field.of(TARGETS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", COMPONENTS)
def test_works_or_says_why_not(name, family, networks):
    if family not in networks:
        networks[family] = _network(family)
    model = networks[family]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before, seed = _state(model), torch.get_rng_state()
    weights = torch.cat([value.detach().flatten().double() for value in model.parameters()])
    reason = REFUSED.get(name, {}).get(family)
    if reason:
        with pytest.raises(UserError, match=reason) as caught:
            _attribution(_source(name), model, images)
        assert "\n" not in str(caught.value)
    else:
        found = _attribution(_source(name), model, images)
        maps = "targets" in inspect.signature(_source(name)).parameters
        assert found.shape == ((2, 32, 32) if maps else images.shape)
        assert found.isfinite().all()
        assert not found.requires_grad
        # A Grad-CAM may be 0 on one image, never on all families: see its own tests.
        assert found.std() > 0 or name in ("grad_cam", "guided_grad_cam")
    assert _state(model) == before
    assert torch.equal(torch.get_rng_state(), seed)
    now = torch.cat([value.detach().flatten().double() for value in model.parameters()])
    assert torch.equal(now, weights)


def test_the_table_of_refusals_names_what_there_is():
    assert set(REFUSED) <= set(COMPONENTS)
    assert {family for table in REFUSED.values() for family in table} <= set(FAMILIES)
