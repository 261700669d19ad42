"""Passes through a model are counted as they happen."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.maps import maps
from saliency_lab.evaluation.cost import CostMeter

CLASSES = 7


def small_model() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    return nn.Sequential(*layers)


def test_five_views_cost_one_forward_and_k_backwards_per_image() -> None:
    model, images = small_model(), torch.rand(5, 3, 8, 8)
    with CostMeter(model) as cost:
        maps(model, images, names=VIEWS)
        cost.mark("maps")
    found = cost.totals("maps")["maps"]
    assert found["forwards"] == 5
    assert found["backwards"] == 5 * CLASSES
    assert found["seconds"] > 0
    assert cost.totals("maps")["peak_bytes"] > 1 << 20


def test_the_peak_is_of_this_evaluation_and_not_of_one_before_it() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("a peak can be set back on Linux only")
    model = small_model()

    def peak(numbers: int) -> int:
        with CostMeter(model) as cost:
            torch.ones(numbers)
            cost.mark("maps")
        return cost.totals("maps")["peak_bytes"]

    small = peak(1)
    assert peak(100_000_000) > small + 300_000_000
    assert peak(1) < small + 100_000_000


def test_one_view_costs_one_backward_and_stages_are_kept_apart() -> None:
    model, images = small_model(), torch.rand(2, 3, 8, 8)
    with CostMeter(model) as cost:
        maps(model, images, names=("positive",))
        cost.mark("maps")
        with torch.no_grad():
            model(images)
        cost.mark("curves")
    assert cost.totals("maps")["maps"]["backwards"] == 2
    curves = cost.totals("curves")["curves"]
    assert (curves["forwards"], curves["backwards"]) == (2, 0)
    assert not model._forward_hooks
