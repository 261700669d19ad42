"""A convolution with its max-pool against the two layers, for any number of images at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saliency_lab.inference.pooled import PooledConv

pytestmark = pytest.mark.onednn

POOLS = [
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2),
    nn.MaxPool2d((2, 3), (1, 2), (1, 0)),
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d(2, 2, dilation=2),
]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("pool", POOLS)
def test_output_and_input_gradient(pool: nn.MaxPool2d, at_once: int, relu: bool) -> None:
    """Whole numbers are exact in any order of addition, and make ties frequent."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1).requires_grad_(False)
    conv.weight.data = torch.randint(-2, 3, conv.weight.shape).float()
    conv.bias.data = torch.randint(-2, 3, (5,)).float()
    images = torch.randint(-2, 3, (7, 3, 19, 16)).float().requires_grad_(True)
    layer = PooledConv(conv, pool, relu, images.shape, conv(images).shape)
    layer.at_once = at_once
    expected = pool(conv(images))
    expected = expected.relu() if relu else expected
    found = layer(images)
    assert torch.equal(found, expected)
    assert torch.equal(layer(images.detach()), expected)
    cotangent = torch.randint(-3, 4, expected.shape).float()
    (wanted,) = torch.autograd.grad(expected, images, cotangent)
    assert torch.equal(torch.autograd.grad(found, images, cotangent)[0], wanted)


def test_images_of_another_size_go_through_the_two_layers() -> None:
    conv, pool = nn.Conv2d(3, 5, 3).requires_grad_(False), nn.MaxPool2d(2)
    layer = PooledConv(conv, pool, True, torch.Size([4, 3, 12, 12]), torch.Size([4, 5, 10, 10]))
    images = torch.rand(2, 3, 9, 14)
    torch.testing.assert_close(layer(images), pool(conv(images)).relu())


def test_what_is_kept_does_not_hold_the_convolution_s_output() -> None:
    conv, pool = nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False), nn.MaxPool2d(4)
    shape = torch.Size([2, 1, 16, 16])
    layer = PooledConv(conv, pool, True, shape, torch.Size([2, 4, 16, 16]))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        layer(torch.rand(shape).requires_grad_(True))
    assert kept == [2 * 4 * 4 * 4] * 2
