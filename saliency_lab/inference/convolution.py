"""Convolutions with frozen weights on the CPU: packed once, fused, and cheap to walk backwards.

Four things make PyTorch's own layers slower here than they need to be. Weights are reordered into
oneDNN's blocked layout at every call. ReLU and residual additions are passes of their own over
memory. The input gradient of a first layer, with three channels to write, runs at a fraction of
the speed of its forward. And on images of a few pixels the deep layers neither fill the vector
units nor have much else to read than padding. A `FrozenConv` packs its weights once for each
direction, fuses what follows it, takes the gradient of a strided layer of few channels as a
convolution of stride 1 (`phases`), and multiplies by one matrix where images are tiny (`dense`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.inference.dense import DenseSteps, is_better_dense
from saliency_lab.inference.phases import PhaseGradient, has_phases

# Looked up where they are used: a build of PyTorch without oneDNN has none of these, and then the
# model itself is run.
_ONEDNN = torch.ops.mkldnn


class FrozenConv(nn.Module):
    """relu(conv(x) + other) with frozen weights; the ReLU and the addition are optional.

    Args:
        conv: a 2-D convolution with numeric zero padding.
        relu: whether a ReLU follows.
        shape: shape (B, C, H, W) of a typical input. Other batch sizes are as fast; images of
            another size go through PyTorch's own convolution.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, shape: torch.Size) -> None:
        super().__init__()
        self.conv = conv
        self.relu = relu
        self._size = shape[2:]
        steps = DenseSteps if is_better_dense(conv, shape) else _PackedSteps
        self.steps = steps(conv, relu, shape)

    def forward(self, images: Tensor, other: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, O, h, w); `other`, added before the ReLU, has the output's shape."""
        if images.shape[2:] != self._size:
            output = self.conv(images) if other is None else self.conv(images) + other
            return output.relu() if self.relu else output
        wanted = images.requires_grad or (other is not None and other.requires_grad)
        if wanted and torch.is_grad_enabled():
            return _Differentiable.apply(images, other, self)
        return self.steps.output(images, other)


class _PackedSteps:
    """A convolution with packed weights, and its input gradient."""

    def __init__(self, conv: nn.Conv2d, relu: bool, shape: torch.Size) -> None:
        self._relu = relu
        padding = [int(side) for side in conv.padding]
        stride, dilation, groups = list(conv.stride), list(conv.dilation), conv.groups
        bias = None if conv.bias is None else conv.bias.detach()
        weight = _ONEDNN._reorder_convolution_weight(
            conv.weight.detach(), padding, stride, dilation, groups, list(shape)
        )
        self._packed = (weight, bias, padding, stride, dilation, groups)
        gradient = PhaseGradient if has_phases(conv) else _TransposedGradient
        self.input_gradient = gradient(conv, shape)

    def output(self, images: Tensor, other: Tensor | None) -> Tensor:
        if other is None:
            relu = "relu" if self._relu else "none"
            return _ONEDNN._convolution_pointwise(images, *self._packed, relu, [], "")
        unary = "relu" if self._relu else None
        return _ONEDNN._convolution_pointwise.binary(
            images, other, *self._packed, "add", 1.0, unary, [], ""
        )


class _TransposedGradient:
    """The input gradient as the transposed convolution that it is, with packed weights."""

    def __init__(self, conv: nn.Conv2d, shape: torch.Size) -> None:
        padding = [int(side) for side in conv.padding]
        reads = [
            shape[2 + axis] + 2 * padding[axis] - conv.dilation[axis] * (conv.kernel_size[axis] - 1)
            for axis in (0, 1)
        ]
        # Rows and columns that the stride steps over at the end: no output reads them.
        unread = [(reads[axis] - 1) % conv.stride[axis] for axis in (0, 1)]
        outputs = [(reads[axis] - 1) // conv.stride[axis] + 1 for axis in (0, 1)]
        geometry = (padding, unread, list(conv.stride), list(conv.dilation), conv.groups)
        weight = conv.weight.detach()
        packed = _ONEDNN._reorder_convolution_transpose_weight(
            weight, *geometry, [shape[0], conv.out_channels, *outputs]
        )
        self._packed = (packed, None, *geometry)

    def __call__(self, grad: Tensor) -> Tensor:
        grad = grad.contiguous(memory_format=torch.channels_last)
        return _ONEDNN._convolution_transpose_pointwise(grad, *self._packed, "none", [], "")


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, other: Tensor | None, conv: FrozenConv) -> Tensor:
        # Not as the view that it may be, so that an activation in place may follow.
        output = conv.steps.output(images, other).data
        ctx.conv = conv
        # The output's sign is all that a ReLU's gradient needs; the input is not needed at all.
        ctx.save_for_backward(*((output,) if conv.relu else ()))
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if ctx.saved_tensors:
            grad = torch.ops.aten.threshold_backward(grad, ctx.saved_tensors[0], 0)
        images = ctx.conv.steps.input_gradient(grad) if ctx.needs_input_grad[0] else None
        return images, grad if ctx.needs_input_grad[1] else None, None
