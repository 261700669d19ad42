"""Convolutions as matrices, exactly, and where they are taken as such."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from saliency_lab.inference.dense import DenseSteps, dense_matrix, is_better_dense

pytestmark = pytest.mark.onednn

GEOMETRIES = [
    # in, out, kernel, stride, padding, dilation, height, width
    (6, 8, 3, 1, 1, 1, 1, 1),
    (6, 8, 3, 1, 1, 1, 2, 2),
    (6, 8, 3, 2, 1, 1, 4, 3),
    (6, 8, 1, 2, 0, 1, 2, 2),
    (5, 4, 3, 1, 2, 2, 2, 3),
    (3, 4, 2, 3, 0, 1, 3, 2),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_matrix_is_the_convolution_in_float64(geometry: tuple[int, ...]) -> None:
    channels, outputs, kernel, stride, padding, dilation, height, width = geometry
    conv = nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, bias=False).double()
    images = torch.randn(4, channels, height, width, dtype=torch.float64)
    expected = conv(images).permute(0, 2, 3, 1).flatten(1)
    found = images.permute(0, 2, 3, 1).flatten(1) @ dense_matrix(conv, images.shape).t()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


# What differs between rows and columns must not be mistaken one for the other.
UNEQUAL = [
    # kernel, stride, padding, dilation, height, width
    ((3, 2), (2, 1), (1, 0), (1, 1), 3, 4),
    ((2, 3), (1, 2), (0, 1), (1, 1), 4, 3),
    ((1, 3), (1, 1), (0, 1), (1, 2), 2, 5),
    ((3, 1), (2, 3), (2, 0), (2, 1), 5, 4),
]


@pytest.mark.parametrize("geometry", UNEQUAL)
def test_rows_and_columns_are_told_apart(geometry: tuple[Any, ...]) -> None:
    kernel, stride, padding, dilation, height, width = geometry
    conv = nn.Conv2d(3, 4, kernel, stride, padding, dilation).requires_grad_(False)
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    exact = copy.deepcopy(conv).double()
    wanted = exact(images)
    bias = exact.bias.repeat(wanted[0, 0].numel())
    found = images.permute(0, 2, 3, 1).flatten(1) @ dense_matrix(exact, images.shape).t() + bias
    torch.testing.assert_close(found, wanted.permute(0, 2, 3, 1).flatten(1), rtol=0, atol=1e-13)
    steps, grad = DenseSteps(conv, False, images.shape), torch.randn_like(wanted)
    output = steps.output(images.float(), None)
    assert output.shape == wanted.shape
    torch.testing.assert_close(output, wanted.float(), atol=1e-5, rtol=1e-5)
    back = torch.nn.grad.conv2d_input(
        images.shape, exact.weight, grad, stride, padding, dilation=dilation
    )
    torch.testing.assert_close(
        steps.input_gradient(grad.float()), back.float(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_addition_and_gradient_in_any_layout(relu: bool, layout: torch.memory_format) -> None:
    conv = nn.Conv2d(4, 6, 3, 2, 1).requires_grad_(False)
    images = torch.randn(5, 4, 4, 4).to(memory_format=layout)
    plain = conv(images)
    other, grad = (torch.randn_like(plain).to(memory_format=layout) for _ in range(2))
    steps = DenseSteps(conv, relu, images.shape)
    for term in (None, other):
        expected = plain if term is None else plain + term
        expected = expected.relu() if relu else expected
        torch.testing.assert_close(steps.output(images, term), expected, atol=1e-5, rtol=1e-5)
    expected = torch.nn.grad.conv2d_input(images.shape, conv.weight, grad, 2, 1)
    torch.testing.assert_close(steps.input_gradient(grad), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("conv", "size", "dense"),
    [
        (nn.Conv2d(8, 8, 3, 1, 1), 1, True),
        (nn.Conv2d(8, 8, 3, 1, 1), 2, True),
        (nn.Conv2d(8, 8, 3, 1, 1), 4, False),
        (nn.Conv2d(8, 8, 3, 2, 1), 4, True),
        (nn.Conv2d(8, 8, 1), 2, False),
        (nn.Conv2d(8, 8, 3, 1, 1, groups=8), 1, False),
        (nn.Conv2d(3, 8, 7, 2, 3), 32, False),
    ],
)
def test_a_matrix_is_taken_where_it_is_small(conv: nn.Conv2d, size: int, dense: bool) -> None:
    shape = torch.Size([16, conv.in_channels, size, size])
    assert is_better_dense(conv, shape) is dense
