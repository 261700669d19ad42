"""Attacks keep their budget, and what they find is what they say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

import saliency_lab as sl
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sources import Source
from saliency_lab.attribution.methods.controls import centre_bias
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.fragility.attack import (
    Attack,
    candidates,
    centre_of_mass,
    smooth_copy,
    top_pixels,
)
from saliency_lab.evaluation.fragility.evaluator import Fragility
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = [f"test/{i}" for i in range(4)]


def network() -> BasicCNN:
    torch.manual_seed(0)
    model = BasicCNN(num_classes=10).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(2)
    return model


def test_a_centre_of_mass_is_scipy_s() -> None:
    maps = IMAGES[:, 0].double()
    expected = [ndimage.center_of_mass(one.numpy()) for one in maps]
    np.testing.assert_allclose(centre_of_mass(-maps), expected)


def test_a_map_of_zeros_has_its_centre_in_the_middle() -> None:
    assert centre_of_mass(torch.zeros(2, 5, 8)).tolist() == [[2.0, 3.5]] * 2


def test_top_pixels_are_the_largest() -> None:
    chosen = top_pixels(IMAGES[:, 0], 0.1)
    assert chosen.sum((1, 2)).tolist() == [102] * 4
    for values, mask in zip(IMAGES[:, 0], chosen, strict=True):
        assert values[mask].min() >= values[~mask].max()


@pytest.mark.parametrize("attack", get_args(Attack))
def test_candidates_stay_within_the_budget(attack: str) -> None:
    targets = network()(IMAGES).argmax(1)
    model = smooth_copy(network())
    streams = SampleGenerator(1, IDS)
    found = list(candidates(attack, model, IMAGES, targets, 0.02, 5, streams, 0.1))
    assert len(found) == 5
    for images in found:
        assert float((images - IMAGES).abs().max()) <= 0.02 + 1e-6
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert not torch.equal(found[0], found[-1])
    assert all(parameter.grad is None for parameter in model.parameters())


class Bent(nn.Module):
    """Two convolutions with bends, each computed as it is given."""

    def __init__(self, *bends: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 5)
        self.one, self.other = bends * 2 if len(bends) == 1 else bends

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.other(self.second(self.one(self.first(images))))
        return self.head(hidden.mean((2, 3)))


def rounded_relu(x: Tensor) -> Tensor:
    return (1 + (30 * x).exp()).log() / 30


RELUS = {
    "modules": (nn.ReLU(), nn.ReLU()),
    "one module": (nn.ReLU(),),
    "in place": (nn.ReLU(inplace=True),),
    "function": (F.relu,),
    "function in place": (partial(F.relu, inplace=True),),
    "torch": (torch.relu,),
    "method": (lambda x: x.relu(),),
    "method in place": (lambda x: x.relu_(),),
    "mixed": (nn.ReLU(), F.relu),
    "overwritten": (lambda x: (x.relu_(), x)[1],),
}


@pytest.mark.parametrize("kind", RELUS)
def test_relus_are_smooth_however_they_are_called(kind: str) -> None:
    model, images = Bent(*RELUS[kind]).double(), IMAGES.double()
    expected = Bent(rounded_relu).double()(images)
    torch.testing.assert_close(smooth_copy(model)(images.clone()), expected)
    sharp = Bent(nn.ReLU()).double()(images)
    assert not torch.allclose(sharp, expected)
    torch.testing.assert_close(model(images.clone()), sharp)  # outside, it is what it was


def test_relus_of_an_exported_network_are_smooth() -> None:
    model, images = Bent(F.relu).double().eval(), IMAGES.double()
    exported = torch.export.export(model, (images,)).module()
    rules = smooth_copy(nn.Sequential())
    rules.model = exported
    torch.testing.assert_close(rules(images), Bent(rounded_relu).double()(images))


@pytest.mark.parametrize(
    "bend",
    [
        nn.ReLU6(),
        nn.Hardtanh(-0.5, 0.7),
        nn.Hardtanh(inplace=True),
        nn.LeakyReLU(0.2, inplace=True),
        nn.PReLU(8),
        nn.PReLU(),
        partial(F.leaky_relu, negative_slope=0.3),
    ],
)
def test_other_bends_of_relus_are_smooth(bend: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-8, 8, 641, dtype=torch.float64).expand(1, 8, -1).contiguous()
    bend = bend.double() if isinstance(bend, nn.Module) else bend
    sharp = bend(x.clone()).detach()
    start = x.requires_grad_(True)
    rules = smooth_copy(nn.Sequential())
    rules.model = bend if isinstance(bend, nn.Module) else Called(bend)
    smooth = rules(start.clone())
    assert 0.01 < float((smooth - sharp).detach().abs().max()) < 0.03  # log 2 / 30 at a bend
    (slope,) = torch.autograd.grad(smooth.sum(), start, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), start)
    assert float(second.abs().max()) > 1


class Called(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_equal_networks_are_attacked_alike(caplog: pytest.LogCaptureFixture) -> None:
    found = [
        sl.measure(Bent(*bends), IMAGES, "original", "fragility", attacks=["top_k"], steps=3)
        for bends in (RELUS["modules"], RELUS["one module"], RELUS["function"])
    ]
    assert (found[0]["top_k"] < 1).any()
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)
    assert "no direction" not in caplog.text


def test_an_attack_without_force_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = Bent(lambda x: F.threshold(x, 0.0, 0.0))  # a ReLU by another name: it stays
    targets = torch.zeros(4, dtype=torch.long)
    streams = SampleGenerator(1, IDS)
    list(candidates("centre", model, IMAGES, targets, 0.02, 2, streams, 0.1))
    assert "attack centre has no direction for 4 of 4 images" in caplog.text


@pytest.mark.parametrize("attack", ["top_k", "centre"])
def test_steps_reach_their_goal(attack: str) -> None:
    targets = network()(IMAGES).argmax(1)
    model = smooth_copy(network()).double()
    images = IMAGES.double()

    def of(x: Tensor) -> Tensor:
        return gradient(model, x).of(targets).abs().amax(1)

    intact = of(images)
    goals = []
    streams = SampleGenerator(1, IDS)
    for one in candidates(attack, model, images, targets, 0.03, 8, streams, 0.1):
        found = of(one)
        if attack == "top_k":
            important = top_pixels(intact, 0.1)
            goals.append(-((found * important).sum((1, 2)) / found.sum((1, 2))).mean())
        else:
            goals.append((centre_of_mass(found) - centre_of_mass(intact)).norm(dim=1).mean())
    assert max(goals[1:]) > goals[0]


def measured(source: Source, **settings: object) -> pd.DataFrame:
    model = network()
    before = copy.deepcopy(model.state_dict())
    index = torch.arange(4)
    batch = Batch(IMAGES, index, index, IDS)
    ready = Engine().prepare(model, IMAGES)
    context = Context(ready, Method("any", source, ("original",)), Shapes(name="shapes"), "test", 1)
    found = found_maps(context.maps_of(IMAGES, IDS))
    evaluator = Fragility(**{"steps": 4, "starts": 1, **settings})  # type: ignore[arg-type]
    rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return rows


def test_an_attack_beats_random_signs_on_the_gradient() -> None:
    rows = measured(gradient, budget=0.05, steps=8)
    means = rows.groupby("attack", observed=True)[["top_k", "displacement", "kept"]].mean()
    assert means.loc["top_k", "top_k"] < means.loc["random", "top_k"] < 1
    assert means.loc["centre", "displacement"] > means.loc["random", "displacement"] > 0
    assert (means["kept"] > 0).all()


def test_a_map_that_ignores_the_image_cannot_be_attacked() -> None:
    rows = measured(centre_bias)
    np.testing.assert_allclose(rows[["top_k", "spearman", "ssim"]], 1)
    assert (rows["displacement"] == 0).all()


class Fickle(nn.Module):
    """Another prediction for every other image."""

    def forward(self, images: Tensor) -> Tensor:
        known = (images * 255 - (images * 255).round()).abs().amax((1, 2, 3)) < 1e-3
        score = images.square().sum((1, 2, 3))
        return torch.stack([torch.where(known, score + 1e4, score - 1e4), 0 * score], 1)


def test_images_that_no_candidate_keeps_count_as_unchanged() -> None:
    pixels = (IMAGES * 255).round() / 255
    index = torch.arange(4)
    ready = Engine(frozen_copy=False).prepare(Fickle(), pixels)
    method = Method("any", gradient, ("original",))
    context = Context(ready, method, Shapes(name="shapes"), "test", 1)
    found = found_maps(context.maps_of(pixels, IDS))
    evaluator = Fragility(attacks=["random"], steps=2, starts=1, budget=0.01)
    batch = Batch(pixels, index, index, IDS)
    rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
    assert (rows["kept"] == 0).all()
    np.testing.assert_allclose(rows["top_k"], 1)


def test_no_attack_is_refused() -> None:
    with pytest.raises(UserError, match="attacks"):
        Fragility(attacks=[])
