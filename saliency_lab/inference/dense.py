"""Convolutions of images of a few pixels, computed as the dense layers that they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# How many times the kernel's numbers the matrix may have. A 3×3 kernel on 2×2 pixels takes 16/9
# times as many, from 4×4 to 2×2 pixels 64/9 times; a 3×3 kernel on 3×3 pixels, 9 times, no longer
# gains.
_LARGEST = 8

# Looked up where they are used, see `convolution`.
_ONEDNN = torch.ops.mkldnn


def is_better_dense(conv: nn.Conv2d, shape: torch.Size) -> bool:
    """Whether one matrix product is cheaper than the convolution of images of this shape."""
    matrix = shape[1:].numel() * conv.out_channels * _outputs(conv, shape).numel()
    return conv.groups == 1 and matrix <= _LARGEST * conv.weight.numel()


def dense_matrix(conv: nn.Conv2d, shape: torch.Size) -> Tensor:
    """The matrix (h·w·O, H·W·C) of a convolution of images (B, C, H, W), channels last in both."""
    height, width = shape[2:]
    rows, columns = _outputs(conv, shape)
    weight = conv.weight.detach()
    matrix = weight.new_zeros(rows, columns, conv.out_channels, height, width, shape[1])
    for row in range(rows):
        for column in range(columns):
            for tap in range(weight.shape[2]):
                for across in range(weight.shape[3]):
                    y = conv.stride[0] * row + conv.dilation[0] * tap - int(conv.padding[0])
                    x = conv.stride[1] * column + conv.dilation[1] * across - int(conv.padding[1])
                    if 0 <= y < height and 0 <= x < width:
                        matrix[row, column, :, y, x] = weight[:, :, tap, across]
    return matrix.view(rows * columns * conv.out_channels, -1)


class DenseSteps:
    """A convolution, and its input gradient, by one packed matrix each.

    Args:
        conv: a 2-D convolution with numeric zero padding, without groups.
        relu: whether a ReLU follows.
        shape: shape (B, C, H, W) of its input.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, shape: torch.Size) -> None:
        self._relu = relu
        self._sizes = _outputs(conv, shape), shape[2:]
        matrix = dense_matrix(conv, shape)
        self._forward, self._backward = (
            _ONEDNN._reorder_linear_weight(matrix),
            _ONEDNN._reorder_linear_weight(matrix.t().contiguous()),
        )
        places = self._sizes[0].numel()
        self._bias = None if conv.bias is None else conv.bias.detach().repeat(places)

    def output(self, images: Tensor, other: Tensor | None) -> Tensor:
        """relu(conv(images) + other), both optional parts as `FrozenConv` has them."""
        if other is None:
            relu = "relu" if self._relu else "none"
            flat = _ONEDNN._linear_pointwise(_flat(images), self._forward, self._bias, relu, [], "")
        else:
            flat = _ONEDNN._linear_pointwise.binary(
                _flat(images), _flat(other), self._forward, self._bias, "add"
            )
            flat = flat.relu_() if self._relu else flat
        return _spatial(flat, self._sizes[0])

    def input_gradient(self, grad: Tensor) -> Tensor:
        """From the gradient of the convolution's output to that of its input."""
        flat = _ONEDNN._linear_pointwise(_flat(grad), self._backward, None, "none", [], "")
        return _spatial(flat, self._sizes[1])


def _outputs(conv: nn.Conv2d, shape: torch.Size) -> torch.Size:
    spans = [conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1 for axis in (0, 1)]
    borders = [2 * int(conv.padding[axis]) for axis in (0, 1)]
    return torch.Size(
        (shape[2 + axis] + borders[axis] - spans[axis]) // conv.stride[axis] + 1 for axis in (0, 1)
    )


def _flat(images: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H·W·C), a view where the layout is channels-last."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _spatial(flat: Tensor, size: torch.Size) -> Tensor:
    return flat.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)
