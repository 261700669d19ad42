"""A two-class network and its support models, small enough to be followed."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from saliency_lab.attribution.methods.gad import SupportModels, gad
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.inference.engine import Engine


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(96, 2),
    ).eval()


@pytest.fixture
def altered(network):
    """The network with every weight a little off, by seed."""

    def make(seed: int, size: float = 0.3) -> nn.Module:
        drawn = torch.Generator().manual_seed(seed)
        other = copy.deepcopy(network).requires_grad_(False)
        for parameter in other.parameters():
            parameter.mul_(1 + size * torch.randn(parameter.shape, generator=drawn))
        return other

    return make


@pytest.fixture
def measured(network, altered):
    """From a batch size to context, batch and maps of GAD."""

    def make(count: int = 4, **settings):
        networks = SupportModels([altered(1), altered(2)], [altered(1), altered(7)])
        source = partial(gad, base=gradient, support=networks, **settings)
        drawn = torch.Generator().manual_seed(0)
        images = torch.rand(count, 3, 16, 16, generator=drawn)
        numbers = torch.arange(count)
        batch = Batch(images, numbers % 2, numbers, [f"image-{i}" for i in range(count)])
        context = Context(
            Engine().prepare(network, images),
            Method("gad", source, ("original",)),
            Shapes(train_images=20, test_images=20),
            "test",
            42,
        )
        return context, batch, found_maps(context.maps_of(images, batch.ids))

    return make
