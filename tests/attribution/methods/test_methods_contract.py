"""Every yaml of conf/method on the networks that people use: what a source promises, held."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from timm.models.vgg import VGG
from torch import Tensor, nn

import saliency_lab.models.basic_cnn  # noqa: F401  (registers basic_cnn with timm)
from saliency_lab.attribution.core.estimate import EstimatedMaps
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sources import reads_layers
from saliency_lab.attribution.maps import maps
from saliency_lab.attribution.methods.gad import SupportModels, needs_support
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.config.binding import bound_arguments
from saliency_lab.errors import UserError
from saliency_lab.explanation import source_function
from saliency_lab.inference.folding import folded_copy

CONF = Path(__file__).resolve().parents[3] / "conf" / "method"
IDS = ("cat/7", "dog/1", "ship/3")
GIVEN = ("model", "images", "targets", "generator")

# Few of everything, so that a method is run in full but not for long.
SMALL = {
    "samples": 4, "steps": 3, "segments": 16, "window": 0.5, "stride": 0.5, "least": 2, "most": 3,
}  # fmt: skip

# Real architectures made narrow, on which everything is held …
NARROW: dict[str, tuple[str, dict[str, Any]]] = {
    "basic_cnn": ("basic_cnn", {}),
    "resnet": ("resnet18", {"channels": (16, 32, 64, 64)}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}),
    "vgg": ("vgg11_bn", {"mlp_ratio": 0.02}),
}
# … and the real ones, which are run once.
FULL: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {}),
    "convnext_tiny": ("convnext_tiny", {}),
    "vgg16": ("vgg16", {"mlp_ratio": 0.02}),
}
SIDE = 32

# Sources with rules for layers, or that look into one: a folded copy is nothing for them.
NEED_LAYERS = {
    "attention_rollout", "gradient_attention", "legrad", "attn_lrp", "libragrad",
    "deconvnet", "deeplift", "grad_cam", "guided_backprop", "guided_grad_cam", "lrp",
}  # fmt: skip

# What cannot be on a network, and the words that say why.
RELU_ONLY = "is a rule for them and would elsewhere be the plain gradient, but got none"
ATTENTION_ONLY = ("attention_rollout", "gradient_attention", "legrad")
REFUSED = {
    **dict.fromkeys(ATTENTION_ONLY, "follows tokens through the blocks, but got no attention"),
    "deconvnet": RELU_ONLY,
    "guided_backprop": RELU_ONLY,
    "guided_grad_cam": RELU_ONLY,
    "lrp": "got layer_norm, for which lrp_epsilon has none",
    "deeplift": "got layer_norm, for which deeplift has none",
}


def _components() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(CONF.glob("*.yaml")):
        component = yaml.safe_load(path.read_text())
        # Shorthands for a view of the gradient have no target of their own; a file of maps computes
        # none (test_file).
        if "_target_" in component and path.stem != "file":
            found[path.stem] = component
    return found


COMPONENTS = _components()
ON_A_CNN = [name for name in COMPONENTS if name not in ATTENTION_ONLY]


def _is_refused(name: str, kind: str) -> bool:
    return name in ATTENTION_ONLY or (kind.startswith("convnext") and name in REFUSED)


def _source(name: str, **fewer: int) -> partial[Any]:
    component = copy.deepcopy(COMPONENTS[name])
    few = {**SMALL, **fewer}
    for part in (component, component.get("base", {})):
        part.update({key: value for key, value in few.items() if key in part})
    target, arguments = bound_arguments(component, "method", GIVEN)
    return partial(target, **arguments)


def _attribution(source: partial[Any], model: nn.Module, images: Tensor, ids: Any) -> Tensor:
    """The map, or the fields of two classes per image, one after the other."""
    targets = torch.tensor([IDS.index(sample_id) for sample_id in ids])
    generator = SampleGenerator(42, ids)
    source = _supported(source, model)
    if "targets" in inspect.signature(source).parameters:
        output = source(model, images, targets, generator=generator)
        return output.maps if isinstance(output, EstimatedMaps) else output
    field = source(model, images, generator=generator)
    assert field.logits.shape == (len(images), 3)
    assert not field.logits.requires_grad
    return torch.cat([field.of(targets), field.of((targets + 1) % 3)], 1)


def _supported(source: partial[Any], model: nn.Module) -> partial[Any]:
    """With support models, where the source wants some: the model, each weight a little off."""
    if not needs_support(source):
        return source
    networks = []
    with torch.inference_mode(False):
        for seed in range(2):
            drawn = torch.Generator().manual_seed(seed)
            network = copy.deepcopy(model).requires_grad_(False).eval()
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=drawn, dtype=torch.float64)
                parameter.mul_(1 + 0.02 * noise)
            networks.append(network)
    return partial(source, support=SupportModels(networks))


def _network(kind: str) -> nn.Module:
    """A network in float64 whose biases, statistics and modes are not all at their defaults."""
    name, settings = {**NARROW, **FULL}[kind]
    torch.manual_seed(0)
    if kind == "vgg":
        # The one whose width is no setting.
        model: nn.Module = VGG(
            [16, "M", 32, "M", 48, 48, "M"], 3, mlp_ratio=0.02, norm_layer=nn.BatchNorm2d
        )
    else:
        model = timm.create_model(name, num_classes=3, **settings)
    model = model.double()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    # Else an untrained Grad-CAM is often negative everywhere, which its ReLU makes 0.
    classifier = model.get_classifier()
    nn.init.uniform_(classifier.weight, 0, 0.1)
    model.train()
    next(iter(model.children())).eval()
    next(model.parameters()).requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {}


def _state(model: nn.Module) -> tuple[Any, ...]:
    return (
        copy.deepcopy(model.state_dict()),
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
        [type(module) for module in model.modules()],
        [getattr(module, "inplace", None) for module in model.modules()],
        [len(module._forward_hooks) for module in model.modules()],
        [len(module._forward_pre_hooks) for module in model.modules()],
        [len(module._backward_hooks) for module in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
    )


def _require_same_state(before: tuple[Any, ...], model: nn.Module) -> None:
    weights, *rest = before
    weights_now, *rest_now = _state(model)
    assert rest_now == rest
    assert weights_now.keys() == weights.keys()
    assert all(torch.equal(weights_now[key], weights[key]) for key in weights)


def _images(side: int) -> Tensor:
    # Smooth, as photographs are: superpixels of noise are noise.
    coarse = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    large = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return large.clamp(0, 1).double()


def _require_close(found: Tensor, expected: Tensor) -> None:
    # Maps are float32; their last digits are not promised.
    torch.testing.assert_close(
        found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()) + 1e-30
    )


def test_every_file_is_named_for_its_method():
    assert len(COMPONENTS) >= 20
    for name, component in COMPONENTS.items():
        assert component["name"] == name
        assert set(component) & {"model", "images", "targets", "generator"} == set()
        target, _ = bound_arguments(component, "method", GIVEN)
        assert (target.__doc__ or "").strip()


def test_controls_are_marked():
    marked = {name for name, component in COMPONENTS.items() if component.get("control")}
    assert marked == {"random_map", "sobel", "centre_bias", "inverted", "degraded"}


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_python_face_knows_it(name):
    source = source_function(name)
    settings = getattr(source, "keywords", {})
    assert "control" not in settings
    # Nested components have been built, and what is left open is what every source is given.
    assert not any(isinstance(value, dict) for value in settings.values())
    given = {key for key in inspect.signature(source).parameters if key not in settings}
    given -= {"support"}  # by the tasks, which train them
    assert given in ({"model", "images", "generator"}, set(GIVEN))


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("name", COMPONENTS)
def test_contract(name, kind, networks):
    model = networks.setdefault(kind, _network(kind))
    source, images = _source(name), _images(SIDE)
    given, before, seed = images.clone(), _state(model), torch.get_rng_state()

    if _is_refused(name, kind):
        with pytest.raises(UserError, match=REFUSED[name]) as caught:
            _attribution(source, model, images, IDS)
        assert "\n" not in str(caught.value)
        _require_same_state(before, model)
        return

    found = _attribution(source, model, images, IDS)
    shape = found.shape
    if "targets" in inspect.signature(source).parameters:
        assert shape == (3, *images.shape[2:])
        assert found.dtype == torch.float32
    else:
        assert shape == (3, 6, *images.shape[2:])
        assert found.dtype == images.dtype
    assert not found.requires_grad
    assert found.isfinite().all()
    # Maps that are the same everywhere would pass every other check; a Grad-CAM may be so.
    assert (found.flatten(1).std(1) > 0).sum() >= 2

    again = _attribution(source, model, images, IDS)
    assert torch.equal(found, again)
    alone = _attribution(source, model, images[2:], IDS[2:])
    _require_close(found[2:], alone)

    _require_same_state(before, model)
    assert torch.equal(images, given)
    assert images.grad is None
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), seed)


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("name", COMPONENTS)
def test_full_networks(name, kind, networks):
    model = networks.setdefault(kind, _network(kind).float())
    source, images = _source(name, samples=2, steps=2), _images(SIDE)[:1].float()
    if _is_refused(name, kind):
        with pytest.raises(UserError, match=REFUSED[name]):
            _attribution(source, model, images, IDS[:1])
        return
    found = _attribution(source, model, images, IDS[:1])
    assert found.isfinite().all()
    assert found.std() > 0


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ON_A_CNN)
def test_inside_a_loop_without_gradients(name, outer, networks):
    model = networks.setdefault("basic_cnn", _network("basic_cnn"))
    images = _images(SIDE)
    expected = _attribution(_source(name), model, images, IDS)
    with outer():
        found = _attribution(_source(name), model, images * 1, IDS)
    assert torch.equal(found.clone(), expected)


@pytest.mark.parametrize("name", ON_A_CNN)
def test_a_seed_changes_what_is_random_alone(name, networks):
    model = networks.setdefault("basic_cnn", _network("basic_cnn"))
    source, images = _source(name), _images(SIDE)
    targets = torch.tensor([0, 1, 2])

    source = _supported(source, model)

    def of(seed: int) -> Tensor:
        generator = SampleGenerator(seed, IDS)
        if "targets" in inspect.signature(source).parameters:
            return maps(model, images, source, targets=targets, generator=generator).maps[
                "original"
            ]
        return source(model, images, generator=generator).of(targets)

    drawing = ("random_map", "degraded", "adaptive", "adaptive_map")
    random = "samples" in COMPONENTS[name] or name in drawing
    assert torch.equal(of(1), of(2)) != random


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("name", sorted(COMPONENTS.keys() - NEED_LAYERS))
def test_what_may_run_on_the_folded_copy_gives_the_same_there(name, kind, networks):
    model = networks.setdefault(kind, _network(kind))
    source, images = _source(name), _images(SIDE)
    assert not reads_layers(source)
    source = _supported(source, model)
    found = _attribution(source, folded_copy(model), images, IDS)
    _require_close(found, _attribution(source, model, images, IDS))


def test_only_sources_with_rules_for_layers_need_the_model_itself():
    assert {name for name in COMPONENTS if reads_layers(_source(name))} == NEED_LAYERS
    target, _ = bound_arguments(COMPONENTS["guided_backprop"], "method", GIVEN)
    assert reads_layers(partial(smoothgrad, base=target))
    assert not reads_layers(partial(smoothgrad, samples=2))
