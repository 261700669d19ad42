"""Convolutions with frozen weights on the CPU: packed once, fused, and cheap to walk backwards.

Four things make PyTorch's own layers slower here than they need to be. Weights are reordered into
oneDNN's blocked layout at every call. ReLU and residual additions are passes of their own over
memory. The input gradient of a first layer, with three channels to write, runs at a fraction of
the speed of its forward. And on small images the deep layers spend most of their products on
padding. A `FrozenConv` packs its weights once for each direction, fuses what follows it, takes the
gradient of a strided layer of few channels as a convolution of stride 1 (`phase_kernel`), and
leaves out the taps that only ever meet padding (`reached_taps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below that many input channels a gradient written channel by channel wastes the vector units.
FEW_CHANNELS = 4

_pack = torch.ops.mkldnn._reorder_convolution_weight
_convolve = torch.ops.mkldnn._convolution_pointwise
_pack_transposed = torch.ops.mkldnn._reorder_convolution_transpose_weight
_convolve_transposed = torch.ops.mkldnn._convolution_transpose_pointwise

Backward = Callable[[Tensor], Tensor]


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
        self._bias = None if conv.bias is None else conv.bias.detach()
        weight, padding = reached_taps(conv, shape)
        stride, dilation = list(conv.stride), list(conv.dilation)
        self._geometry = (padding, stride, dilation, conv.groups)
        self._packed = _pack(weight, *self._geometry, list(shape))
        few = conv.in_channels <= FEW_CHANNELS and conv.groups == 1
        alike = weight.shape[2] == weight.shape[3] and padding[0] == padding[1]
        phases = few and alike and stride[0] == stride[1] > 1 and dilation == [1, 1]
        step = _phase_step if phases else _transposed_step
        self._backward = step(weight, shape, *self._geometry)

    def forward(self, images: Tensor, other: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, O, h, w); `other`, added before the ReLU, has the output's shape."""
        if images.shape[2:] != self._size:
            output = self.conv(images) if other is None else self.conv(images) + other
            return output.relu() if self.relu else output
        wanted = images.requires_grad or (other is not None and other.requires_grad)
        if wanted and torch.is_grad_enabled():
            return _Differentiable.apply(images, other, self)
        return self.output(images, other)

    def output(self, images: Tensor, other: Tensor | None) -> Tensor:
        """The output, without a graph."""
        packed = (self._packed, self._bias, *self._geometry)
        if other is None:
            return _convolve(images, *packed, "relu" if self.relu else "none", [], "")
        unary = "relu" if self.relu else None
        return _convolve.binary(images, other, *packed, "add", 1.0, unary, [], "")

    def input_gradient(self, grad: Tensor) -> Tensor:
        """From the gradient of the convolution's output to that of its input."""
        return self._backward(grad.contiguous(memory_format=torch.channels_last))


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, other: Tensor | None, conv: FrozenConv) -> Tensor:
        output = conv.output(images, other)
        ctx.conv = conv
        # The output's sign is all that a ReLU's gradient needs; the input is not needed at all.
        ctx.save_for_backward(*((output,) if conv.relu else ()))
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if ctx.saved_tensors:
            grad = torch.ops.aten.threshold_backward(grad, ctx.saved_tensors[0], 0)
        images = ctx.conv.input_gradient(grad) if ctx.needs_input_grad[0] else None
        return images, grad if ctx.needs_input_grad[1] else None, None


def reached_taps(conv: nn.Conv2d, shape: torch.Size) -> tuple[Tensor, list[int]]:
    """The part of a kernel that ever meets a pixel of images of this size, and its padding.

    A 3×3 kernel on a 1×1 image with padding 1 reads one pixel by its middle tap; eight taps in
    nine read padding. Where the padding that is left would not be symmetric, nothing is cut.
    """
    weight = conv.weight.detach()
    padding = [int(side) for side in conv.padding]
    for axis in (0, 1):
        extent, taps = shape[2 + axis], weight.shape[2 + axis]
        stride, gap, border = conv.stride[axis], conv.dilation[axis], padding[axis]
        outputs = (extent + 2 * border - gap * (taps - 1) - 1) // stride + 1
        reads = [
            any(0 <= stride * i + gap * tap - border < extent for i in range(outputs))
            for tap in range(taps)
        ]
        if not any(reads):
            continue
        first, last = reads.index(True), taps - reads[::-1].index(True)
        left = border - gap * first
        after = (extent + 2 * left - gap * (last - first - 1) - 1) // stride + 1
        if left >= 0 and after == outputs:
            weight = weight.narrow(2 + axis, first, last - first)
            padding[axis] = left
    return weight.contiguous(), padding


def _transposed_step(
    weight: Tensor,
    shape: torch.Size,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Backward:
    """The input gradient as the transposed convolution that it is, with packed weights."""
    spans = [dilation[axis] * (weight.shape[2 + axis] - 1) + 1 for axis in (0, 1)]
    reads = [shape[2 + axis] + 2 * padding[axis] - spans[axis] for axis in (0, 1)]
    # Rows and columns that the stride steps over at the end: no output reads them.
    unread = [reads[axis] % stride[axis] for axis in (0, 1)]
    outputs = [reads[axis] // stride[axis] + 1 for axis in (0, 1)]
    geometry = (padding, unread, stride, dilation, groups)
    packed = _pack_transposed(weight, *geometry, [shape[0], weight.shape[0], *outputs])
    return lambda grad: _convolve_transposed(grad, packed, None, *geometry, "none", [], "")


def _phase_step(
    weight: Tensor,
    shape: torch.Size,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Backward:
    """Stride s: all s² phases of the gradient as channels of one convolution of stride 1."""
    step, channels = stride[0], weight.shape[1]
    kernel, before = phase_kernel(weight, padding[0], step)
    outputs = [(n + 2 * padding[0] - weight.shape[2]) // step + 1 for n in shape[2:]]
    rows, columns = (-(-extent // step) for extent in shape[2:])
    behind = [
        max(0, whole - n + kernel.shape[2] - 1 - before)
        for whole, n in zip((rows, columns), outputs, strict=True)
    ]
    # The library pads both ends alike; what is too much in front is cut off again.
    borders = [max(before, after) for after in behind]
    top, left = (border - before for border in borders)
    geometry = (borders, [1, 1], [1, 1], 1)
    packed = _pack(kernel, *geometry, [shape[0], weight.shape[0], *outputs])

    def images(grad: Tensor) -> Tensor:
        phases = _convolve(grad, packed, None, *geometry, "none", [], "")
        phases = phases[:, :, top : top + rows, left : left + columns].permute(0, 2, 3, 1)
        # (B, h, w, s·s·C) to (B, h·s, w·s, C); each copied piece is a whole row of a phase.
        spread = phases.unflatten(3, (step, step * channels)).transpose(2, 3)
        whole = spread.reshape(len(grad), rows * step, columns * step, channels)
        return whole[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)

    return images


def phase_kernel(weight: Tensor, padding: int, stride: int) -> tuple[Tensor, int]:
    """The kernel whose stride-1 convolution gives the input gradient of a strided one.

    With y[i] = Σ_a W[a] x[s·i + a − p], the gradient at u = s·q + r is
    Σ_t W[r + p + s·t] · gy[q − t]: for each phase r an ordinary convolution over q. The s² phases
    of the C channels become s²·C output channels, enough to fill the vector units where C alone
    does not, and the gradient is read once instead of s² times.

    Args:
        weight: (O, C, k, k) of a convolution without dilation or groups.
        padding, stride: p and s, the same in both directions.

    Returns:
        The kernel (s·s·C, O, T, T), channels ordered by row phase, column phase, channel; and how
        many zeros go before the gradient.
    """
    outputs, channels, size, _ = weight.shape
    first = min(math.ceil(-(r + padding) / stride) for r in range(stride))
    last = max((size - 1 - r - padding) // stride for r in range(stride))
    # Nothing stands before the gradient's own first element unless a tap reaches that far back.
    first, last = min(first, 0), max(last, 0)
    taps = last - first + 1
    # A border of zeros so that every tap outside the kernel reads a zero.
    reach = stride * (taps + 1) + padding
    wide = F.pad(weight, (reach, reach, reach, reach))
    place = torch.arange(stride)[:, None] + padding + stride * (last - torch.arange(taps)) + reach
    picked = wide[:, :, place.flatten()][:, :, :, place.flatten()]
    picked = picked.reshape(outputs, channels, stride, taps, stride, taps)
    kernel = picked.permute(2, 4, 1, 0, 3, 5).reshape(-1, outputs, taps, taps)
    return kernel.contiguous(), last
