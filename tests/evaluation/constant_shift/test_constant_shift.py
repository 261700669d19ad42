"""Compensated networks, and which methods see the difference."""

from __future__ import annotations

import copy
import functools

import pandas as pd
import pytest
import timm
import torch
from torch import nn

from saliency_lab.attribution.core.sources import Source
from saliency_lab.attribution.maps import maps
from saliency_lab.attribution.methods.controls import sobel
from saliency_lab.attribution.methods.gad import SupportModels, gad
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.gradient_x_input import gradient_x_input
from saliency_lab.attribution.methods.integrated_gradients import integrated_gradients
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.constant_shift.compensation import compensated
from saliency_lab.evaluation.constant_shift.evaluator import ConstantShift, relative_difference
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.inference.engine import Engine
from saliency_lab.measurement import named_evaluator
from saliency_lab.models.basic_cnn import BasicCNN
from saliency_lab.models.network import Network, Normalize

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    normalize = Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    resnet = timm.create_model("resnet10t", num_classes=4)
    return {
        "basic_cnn": BasicCNN(num_classes=4),
        "normalised": Network(normalize, resnet, nn.Identity(), False),
        "reflecting": nn.Sequential(
            nn.Conv2d(3, 6, 5, padding=(2, 1), padding_mode="reflect", bias=False, dilation=2),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        ),
        "grouped": nn.Sequential(
            nn.Conv2d(3, 6, (3, 5), padding="same", groups=3), nn.ReLU(), nn.Flatten(),
            nn.Linear(6 * 32 * 32, 4),
        ),
        "linear": nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)),
    }  # fmt: skip


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("shift", [-1.0, 0.7])
def test_logits_and_gradients_are_the_same_up_to_the_border(name: str, shift: float) -> None:
    model = networks()[name].double().eval()
    before = copy.deepcopy(model.state_dict())
    images = IMAGES.double()
    copied = compensated(model, images, shift)
    plain, shifted = images.clone().requires_grad_(), (images + shift).requires_grad_()
    first, second = model(plain), copied(shifted)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)
    a, b = (
        torch.autograd.grad(first[:, 1].sum(), plain),
        torch.autograd.grad(second[:, 1].sum(), shifted),
    )
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    # Without the compensation it would be another network.
    assert (model(shifted) - first).abs().max() > 1e3 * (second - first).abs().max() > -1


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1), "first layer is"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(4)), "BatchNorm2d"),
        (nn.Sequential(nn.Sigmoid(), nn.Conv2d(3, 4, 32), nn.Flatten()), "logits"),
    ],
)  # fmt: skip
def test_models_that_cannot_compensate_are_refused(model: nn.Module, reason: str) -> None:
    model(IMAGES)
    with pytest.raises(UserError, match=reason):
        compensated(model.eval(), IMAGES, -1.0)


def measured(source: Source) -> tuple[pd.DataFrame, dict[str, str]]:
    network = networks()["basic_cnn"].eval()
    index = torch.arange(len(IMAGES))
    batch = Batch(IMAGES, index, index, [f"test/{i}" for i in index])
    model = Engine().prepare(network, IMAGES)
    context = Context(model, Method("any", source, ("original",)), Shapes(name="shapes"), "test", 1)
    evaluator = ConstantShift(shifts=[-1.0, 0.5])
    found = found_maps(context.maps_of(IMAGES, batch.ids))
    rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
    gate = evaluator.facts(rows, evaluator.image_scores(rows))["gate"]
    return rows, {row["shift"]: row["verdict"] for row in gate}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (gradient, "passed"),
        (sobel, "passed"),
        (functools.partial(smoothgrad, samples=2), "passed"),
        (gradient_x_input, "failed"),
        (functools.partial(integrated_gradients, steps=4), "failed"),
    ],
)
def test_maps_that_refer_to_black_change(source: Source, said: str) -> None:
    rows, gate = measured(source)
    assert gate == {-1.0: said, 0.5: said}
    assert len(rows) == 2 * len(IMAGES)
    if source is gradient_x_input:
        # |gradient · (image − 1)| against |gradient · image|, the largest channel.
        network = networks()["basic_cnn"].eval()
        slope = gradient(network, IMAGES).of(network(IMAGES).argmax(1))
        before = (slope * IMAGES).abs().amax(1)
        after = (slope * (IMAGES - 1)).abs().amax(1)
        expected = (after - before).abs().sum((1, 2)) / before.sum((1, 2))
        found = rows[rows["shift"] == "-1.0"]["relative_change"]
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_support_models_are_compensated_like_the_network() -> None:
    network = networks()["basic_cnn"].eval()
    support = []
    for seed in range(3):
        moved = copy.deepcopy(network)
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weights in moved.parameters():
                spread = 0.02 * weights.abs().mean()
                weights.add_(spread * torch.randn(weights.shape, generator=noise))
        support.append(moved)
    source = functools.partial(gad, support=SupportModels(tuple(support)))
    rows, gate = measured(source)
    assert gate == {-1.0: "passed", 0.5: "passed"}
    # They have a say in the map.
    alone, _ = measured(functools.partial(gad, support=SupportModels((network,))))
    assert len(rows) == len(alone) == 2 * len(IMAGES)
    own = maps(network, IMAGES, source, ("original",)).maps["original"]
    assert (own != 0).sum() < (
        gradient_map := maps(network, IMAGES, gradient).maps["original"]
    ).numel() / 2
    assert own[own != 0].equal(gradient_map[own != 0])


@pytest.mark.parametrize("evaluator", ["randomisation", "label_randomisation", "contrast"])
def test_support_models_are_of_no_other_network(evaluator: str) -> None:
    needs = named_evaluator(evaluator, {}).needs
    with pytest.raises(UserError, match=f"evaluator={evaluator}, which explains other networks"):
        Method("gad", gad, ("original",)).require(needs, evaluator)
    Method("gradient", gradient, ("original",)).require(needs, evaluator)


def test_the_change_of_nothing() -> None:
    zero, one = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    assert float(relative_difference(zero, zero)) == 0
    assert float(relative_difference(zero, one)) == 1
    assert float(relative_difference(one, 3 * one)) == 2


def test_no_shift_is_refused() -> None:
    with pytest.raises(UserError, match="other than 0"):
        ConstantShift(shifts=[0.0])


@pytest.mark.parametrize("name", ["basic_cnn", "linear"])
def test_nothing_is_drawn_from_the_process(name: str) -> None:
    model = networks()[name].eval()
    state = torch.get_rng_state()
    compensated(model, IMAGES, 0.5)
    assert torch.equal(torch.get_rng_state(), state)
