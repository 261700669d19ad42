"""Frozen convolutions against PyTorch's own, forwards and backwards, over many geometries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from saliency_lab.inference.convolution import FrozenConv

pytestmark = pytest.mark.onednn

GEOMETRIES = [
    # in, out, kernel, stride, padding, dilation, groups, height, width
    (3, 8, 7, 2, 3, 1, 1, 32, 32),  # a stem: phases
    (3, 8, 7, 2, 3, 1, 1, 29, 38),
    (3, 4, 7, 2, 3, 1, 1, 64, 71),  # large: padded alike on both ends, and cut
    (1, 5, 3, 2, 1, 1, 1, 9, 12),
    (3, 6, 4, 4, 0, 1, 1, 16, 18),  # patches; the last columns are never read
    (3, 6, 5, 3, 1, 1, 1, 17, 13),
    (3, 6, 2, 3, 0, 1, 1, 11, 10),  # a stride beyond the kernel leaves gaps
    (2, 6, 3, 2, 3, 1, 1, 9, 9),  # more padding than the kernel reaches
    (6, 8, 3, 1, 1, 1, 1, 10, 7),  # transposed
    (6, 8, 1, 1, 0, 1, 1, 5, 6),
    (3, 4, 5, 1, 0, 1, 1, 9, 11),
    (6, 8, 3, 2, 1, 1, 1, 10, 7),
    (6, 6, 3, 1, 1, 1, 6, 8, 8),
    (6, 8, 3, 1, 2, 2, 1, 9, 9),
    (6, 8, 1, 1, 1, 1, 1, 5, 5),
    (6, 8, 3, 1, 1, 1, 1, 1, 1),  # dense from here on
    (6, 8, 3, 2, 1, 1, 1, 2, 2),
    (6, 8, 3, 2, 1, 1, 1, 1, 3),
    (6, 8, 5, 1, 2, 1, 1, 2, 1),
    (6, 8, 3, 1, 2, 2, 1, 2, 2),
    (3, 8, 7, 2, 3, 1, 1, 2, 2),
]


def pair(
    geometry: tuple[int, ...], relu: bool
) -> tuple[nn.Conv2d, FrozenConv, torch.Tensor, torch.Tensor]:
    channels, outputs, kernel, stride, padding, dilation, groups, height, width = geometry
    torch.manual_seed(0)
    conv = nn.Conv2d(
        channels, outputs, kernel, stride, padding, dilation=dilation, groups=groups
    ).requires_grad_(False)
    images = torch.randn(3, channels, height, width).to(memory_format=torch.channels_last)
    return conv, FrozenConv(conv, relu, images.shape), images, conv(images)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_output_and_input_gradient(geometry: tuple[int, ...], relu: bool) -> None:
    conv, packed, images, plain = pair(geometry, relu)
    expected = plain.relu() if relu else plain
    torch.testing.assert_close(packed(images), expected, atol=1e-5, rtol=1e-5)
    mine, theirs = images.clone().requires_grad_(True), images.double().requires_grad_(True)
    cotangent = torch.randn_like(expected)
    own = packed(mine)
    exact = conv.double()(theirs)
    exact = exact.relu() if relu else exact
    (found,) = torch.autograd.grad(own, mine, cotangent)
    (wanted,) = torch.autograd.grad(exact, theirs, cotangent.double())
    assert found.shape == images.shape
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


UNEQUAL = [
    # in, out, kernel, stride, padding, dilation, height, width
    (3, 6, (5, 3), (2, 1), (1, 2), (1, 1), 13, 10),
    (3, 6, (3, 5), (1, 3), (0, 2), (1, 1), 9, 17),
    (6, 4, (3, 3), (2, 2), (2, 0), (1, 1), 11, 12),
    (6, 4, (3, 2), (2, 3), (1, 1), (2, 1), 12, 13),
    (3, 6, (7, 7), (2, 2), (3, 2), (1, 1), 16, 20),
    (3, 6, (7, 7), (2, 4), (3, 3), (1, 1), 16, 20),
    (3, 6, (3, 3), (2, 2), (1, 1), (2, 2), 12, 13),  # few channels, but dilated
]


@pytest.mark.parametrize("geometry", UNEQUAL)
def test_rows_and_columns_are_told_apart(geometry: tuple[Any, ...]) -> None:
    channels, outputs, kernel, stride, padding, dilation, height, width = geometry
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, outputs, kernel, stride, padding, dilation).requires_grad_(False)
    images = torch.randn(2, channels, height, width)
    packed = FrozenConv(conv, False, images.shape)
    exact = conv.double()(images.double())
    found = packed(images.requires_grad_(True))
    torch.testing.assert_close(found, exact.float(), atol=1e-5, rtol=1e-5)
    cotangent = torch.randn_like(found)
    wanted = torch.nn.grad.conv2d_input(
        images.shape, conv.weight, cotangent.double(), stride, padding, dilation
    )
    (slope,) = torch.autograd.grad(found, images, cotangent)
    torch.testing.assert_close(slope, wanted.float(), atol=1e-4, rtol=1e-4)


def test_the_addition_gets_its_gradient_too() -> None:
    conv, packed, images, plain = pair(GEOMETRIES[7], relu=True)
    other = torch.randn_like(plain)
    leaves = [images.clone().requires_grad_(True), other.clone().requires_grad_(True)]
    found = packed(*leaves)
    torch.testing.assert_close(found, (plain + other).relu(), atol=1e-5, rtol=1e-5)
    cotangent = torch.randn_like(plain)
    expected = (conv(leaves[0]) + leaves[1]).relu()
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_other_sizes_than_the_typical_one() -> None:
    conv, packed, _, _ = pair(GEOMETRIES[0], relu=False)
    for shape in [(1, 3, 32, 32), (5, 3, 32, 32), (5, 3, 41, 30)]:
        images = torch.randn(shape).requires_grad_(True)
        output = packed(images)
        torch.testing.assert_close(output, conv(images), atol=1e-5, rtol=1e-5)
        found = torch.autograd.grad(output.sum(), images)[0]
        wanted = torch.autograd.grad(conv(images).sum(), images)[0]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("relu", [False, True])
def test_an_addition_to_images_of_another_size(relu: bool) -> None:
    conv, packed, _, _ = pair(GEOMETRIES[8], relu)
    images = torch.randn(2, 6, 9, 12)
    plain = conv(images)
    other = torch.randn_like(plain)
    expected = (plain + other).relu() if relu else plain + other
    torch.testing.assert_close(packed(images, other), expected, atol=1e-5, rtol=1e-5)
