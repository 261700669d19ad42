"""Every learned tensor is drawn anew, by its own initialiser or by the documented rule."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from saliency_lab.attribution.maps import maps
from saliency_lab.evaluation.randomisation.redrawing import (
    Layer,
    Mixtures,
    constants,
    grouped,
    layers,
    named_tensors,
    redrawn,
)
from saliency_lab.evaluation.randomisation.similarity import spearman
from saliency_lab.models.basic_cnn import BasicCNN
from saliency_lab.models.network import Network, Normalize

FAMILIES = {
    "basic_cnn": {},
    "resnet10t": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 2},
    "cait_xxs24_224": {"img_size": 32, "depth": 1},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4, "depths": (1, 1, 1, 1)},
    "mixer_s32_224": {"img_size": 64},
    "efficientnet_lite0": {},
    "mobilevit_xxs": {},
}


def trained(model: nn.Module) -> nn.Module:
    """As if trained: no tensor is any longer what an initialiser leaves."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in named_tensors(model).values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_after_full_randomisation_every_tensor_differs_or_has_a_reason(family: str) -> None:
    torch.manual_seed(0)
    settings = FAMILIES[family]
    backbone = timm.create_model(family, pretrained=False, num_classes=5, **settings)
    model = trained(Network(Normalize([0.5] * 3, [0.2] * 3), backbone, nn.Identity(), False))
    side = settings.get("img_size", 32)
    images = torch.rand(1, 3, side, side)
    reasons = constants(model)
    assert {"normalize.mean", "normalize.std"} <= reasons.keys()
    for name, reason in reasons.items():
        tensor = named_tensors(model)[name]
        learned = isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
        assert not learned, f"{name}: {reason}"
    found = layers(model, images)
    covered = [name for layer in found for name in layer.tensors]
    assert sorted([*covered, *reasons]) == sorted(named_tensors(model))
    before = copy.deepcopy(model.state_dict())
    mixture = Mixtures(model, redrawn(model, 0, 0)).model(found)
    for name, tensor in mixture.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in reasons), name
        assert tensor.isfinite().all()
        if name.endswith("running_var"):
            assert (tensor > 0).all()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        assert mixture(images).isfinite().all()
        assert not torch.allclose(mixture(images), model(images))


def test_an_initialiser_draws_what_a_new_layer_has() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 5), nn.Flatten(), nn.LazyLinear(4))
    model(torch.rand(1, 3, 8, 8))
    with torch.no_grad():
        model[0].weight.mul_(100).add_(7)
    drawn = redrawn(model, 1, 0)["0.weight"]
    bound = 1 / np.sqrt(3 * 25)
    uniform = stats.uniform(-bound, 2 * bound)
    assert stats.kstest(drawn.flatten().numpy(), uniform.cdf).pvalue > 0.01


class Scaled(nn.Module):
    """Tensors that no initialiser knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(3 + 0.5 * torch.randn(4000))
        self.token = nn.Parameter(torch.zeros(4000))
        self.equal = nn.Parameter(torch.full((4000,), -0.7))
        self.register_buffer("variance", torch.rand(4000))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("table", torch.randn(5), persistent=False)
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3)))


def test_what_has_no_initialiser_keeps_its_mean_and_spread() -> None:
    torch.manual_seed(2)
    model = Scaled()
    drawn = redrawn(model, 1, 0)
    assert drawn.keys() == {"gamma", "token", "equal", "variance", "linear.weight", "linear.bias"}
    expected = {"gamma": (3, 0.5), "token": (0, 0.02), "equal": (-0.7, 0.7)}
    for name, (mean, spread) in expected.items():
        values = drawn[name]
        assert float(values.mean()) == pytest.approx(mean, abs=4 * spread / np.sqrt(4000))
        assert float(values.std()) == pytest.approx(spread, rel=0.06)
    assert (drawn["variance"] >= 0).all()
    assert set(constants(model)) == {"count", "table"}


def test_numbers_belong_to_seed_draw_and_module() -> None:
    torch.manual_seed(0)
    model = BasicCNN(num_classes=4)
    state = torch.get_rng_state()
    first = redrawn(model, 1, 0)
    assert torch.equal(state, torch.get_rng_state())
    for name, tensor in redrawn(model, 1, 0).items():
        assert torch.equal(tensor, first[name])
    for other in (redrawn(model, 1, 1), redrawn(model, 2, 0)):
        assert all(not torch.equal(tensor, first[name]) for name, tensor in other.items())
    # Layers of one shape have numbers of their own.
    assert not torch.equal(first["blocks.0.0.weight"], first["blocks.0.2.weight"])


def test_layers_are_in_the_order_of_the_forward() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.body(images).flatten(2).transpose(1, 2)
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))

    found = layers(Backwards(), torch.rand(2, 3, 6, 6))
    assert [layer.name for layer in found] == ["body", "attention", "head"]
    # The output projection is read by the attention, never entered.
    assert "attention.out_proj.weight" in found[1].tensors


def test_groups_hold_every_layer_once() -> None:
    found = [Layer(str(i), (f"{i}.weight", f"{i}.bias")) for i in range(7)]
    merged = grouped(found, 3)
    assert [layer.name for layer in merged] == ["0…2", "3…4", "5…6"]
    assert [t for layer in merged for t in layer.tensors] == [
        t for one in found for t in one.tensors
    ]
    assert grouped(found, None) == grouped(found, 9) == tuple(found)


def test_a_mixture_takes_each_layer_from_where_it_is_told() -> None:
    model = trained(BasicCNN(num_classes=4))
    drawn = redrawn(model, 0, 0)
    found = layers(model, torch.rand(1, 3, 32, 32))
    mixtures = Mixtures(model, drawn)
    for chosen in (found[-1:], found[:2], ()):
        names = {name for layer in chosen for name in layer.tensors}
        for name, tensor in mixtures.model(chosen).state_dict().items():
            assert torch.equal(tensor, drawn[name] if name in names else model.state_dict()[name])


def test_hooks_of_the_model_stay_with_the_model() -> None:
    model = trained(BasicCNN(num_classes=4))
    calls: list[object] = []
    model.fc.register_forward_hook(lambda *_: calls.append(1))
    model.stem.register_forward_pre_hook(lambda *_: calls.append(iter("no copy of this")))
    mixture = Mixtures(model, redrawn(model, 0, 0)).model(())
    assert not calls
    with torch.no_grad():
        found = mixture(torch.ones(1, 3, 32, 32))
        assert not calls
        torch.testing.assert_close(found, model(torch.ones(1, 3, 32, 32)))
    assert len(calls) == 2


def test_what_quantus_leaves_as_it_was() -> None:
    """It resets modules that have `reset_parameters`; tensors of other modules escape."""
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8, depth=2, init_values=0.1
    )
    model = trained(vit)
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    wrapper = quantus.helpers.utils.get_wrapped_model(
        model=model, channel_first=True, softmax=False, device="cpu"
    )
    for _, last in wrapper.get_random_layer_generator(order="top_down", seed=7):
        theirs = named_tensors(last)
    kept = {name for name, tensor in before.items() if torch.equal(theirs[name], tensor)}
    assert {"cls_token", "pos_embed"} <= kept
    ours = redrawn(model, 7, 0)
    assert not [name for name in kept if torch.equal(ours[name], before[name])]
    # Each module starts from the same seed, so layers of one shape are the same layer.
    first, second = (theirs[f"blocks.{block}.attn.qkv.weight"] for block in (0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(ours["blocks.0.attn.qkv.weight"], ours["blocks.1.attn.qkv.weight"])


class Computing(nn.Module):
    """A network whose weights hooks of PyTorch's compute before every forward."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)  # a border of its own would make maps alike
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        for layer in (self.first, self.second, self.head):
            if kind == "weight_norm":
                weight_norm(layer)
            elif kind == "spectral_norm":
                spectral_norm(layer)
            else:
                prune.random_unstructured(layer, "weight", 0.2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "prune"])
def test_weights_that_hooks_compute_follow_what_was_drawn(kind: str) -> None:
    model = Computing(kind)
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model(images)  # in training mode: the vectors of a spectral norm begin to settle
    model.eval()
    found = layers(model, images)
    mixtures = Mixtures(model, redrawn(model, 0, 0))
    targets = model(images).argmax(1)

    def map_of(chosen: tuple[Layer, ...]) -> Tensor:
        return maps(mixtures.model(chosen), images, targets=targets).maps["original"]

    intact = map_of(())
    torch.testing.assert_close(intact, maps(model, images, targets=targets).maps["original"])
    head = tuple(layer for layer in found if layer.name == "head")
    assert not torch.allclose(map_of(head), intact)
    assert abs(float(spearman(map_of(found), intact).mean())) < 0.2


def test_a_spectral_norm_measures_the_weight_that_was_drawn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3)), nn.Flatten()).eval()
    drawn = redrawn(model, 0, 0)
    matrix = drawn["0.weight_orig"].flatten(1)
    divisor = drawn["0.weight_u"] @ matrix @ drawn["0.weight_v"]
    assert float(divisor) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=0.05)
