"""Small float64 networks whose every number is known or can be recomputed slowly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def float64() -> Iterator[None]:
    """Float64 as the default, so that references can be compared to the last digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def relu_net(float64: None) -> nn.Sequential:
    """Convolutions with biases, batch norm with statistics, in-place ReLUs, an overlapping pool."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    nn.init.normal_(norm.bias)
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        norm,
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(20, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.bias, std=0.3)
    return net.eval()


@pytest.fixture
def plain_net(float64: None) -> nn.Sequential:
    """Convolutions, ReLUs that are not in place, a pool without overlap: what peers can do."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 4),
    ).eval()


class Residual(nn.Module):
    """One ReLU module used three times, a residual sum, pooling as a mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.third = nn.Linear(6, 4, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.second(x) + x)
        y = self.second(x)
        y += 0.5 * x
        return self.third(self.relu(y).mean((2, 3)))


@pytest.fixture
def residual_net(float64: None) -> nn.Module:
    return Residual().eval()


class Linear(nn.Module):
    """Logits w·x + b, with the weights at hand as (K, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weight = nn.Parameter(torch.randn(4, 3, 8, 8))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight) + self.bias


@pytest.fixture
def linear_net(float64: None) -> Linear:
    return Linear()


@pytest.fixture
def images(float64: None) -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def classes() -> Tensor:
    return torch.tensor([0, 3, 1])
