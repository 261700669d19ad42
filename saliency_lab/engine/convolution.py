"""Convolutions with frozen weights on the CPU: packed once, fused, and cheap to walk backwards.

Three things make PyTorch's own layers slower here than they need to be. Weights are reordered
into oneDNN's blocked layout at every call; ReLU and residual additions are passes of their own
over memory; and the input gradient of a first layer, with three channels to write, runs at a
fraction of the speed of its forward. A `FrozenConv` packs its weights once for each direction,
fuses what follows it, and takes the gradient of a strided layer of few channels as a convolution
of stride 1 (see `phase_kernel`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below that many input channels a gradient written channel by channel wastes the vector units.
FEW_CHANNELS = 4

_packed = torch.ops.mkldnn._reorder_convolution_weight
_convolve = torch.ops.mkldnn._convolution_pointwise


class FrozenConv(nn.Module):
    """relu(conv(x) + other) with frozen weights; the ReLU and the addition are optional.

    Args:
        conv: a 2-D convolution with numeric zero padding.
        relu: whether a ReLU follows.
        shape: shape of a typical input, which decides how the weights are packed.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, shape: torch.Size) -> None:
        super().__init__()
        weight = conv.weight.detach()
        self.relu = relu
        self.bias = None if conv.bias is None else conv.bias.detach().clone()
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = _packed(weight, *self.geometry, list(shape))
        self.backward_step = _backward_step(conv, weight, shape)

    def forward(self, images: Tensor, other: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, O, h, w); `other`, added before the ReLU, has the output's shape."""
        wanted = images.requires_grad or (other is not None and other.requires_grad)
        if wanted and torch.is_grad_enabled():
            return _FrozenConvFunction.apply(images, other, self)
        return self.output(images, other)

    def output(self, images: Tensor, other: Tensor | None) -> Tensor:
        """The output, without a graph."""
        packed = (self.weight, self.bias, *self.geometry)
        if other is None:
            return _convolve(images, *packed, "relu" if self.relu else "none", [], "")
        unary = "relu" if self.relu else None
        return _convolve.binary(images, other, *packed, "add", 1.0, unary, [], "")


class _FrozenConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, other: Tensor | None, conv: FrozenConv) -> Tensor:
        output = conv.output(images, other)
        ctx.conv, ctx.shape = conv, images.shape
        # The output's sign is all that a ReLU's gradient needs; the input is not needed at all.
        ctx.save_for_backward(*((output,) if conv.relu else ()))
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if ctx.saved_tensors:
            grad = torch.ops.aten.threshold_backward(grad, ctx.saved_tensors[0], 0)
        images = ctx.conv.backward_step(grad, ctx.shape) if ctx.needs_input_grad[0] else None
        return images, grad if ctx.needs_input_grad[1] else None, None


def _backward_step(conv: nn.Conv2d, weight: Tensor, shape: torch.Size) -> _Step:
    padding = tuple(int(side) for side in conv.padding)
    square = len({*conv.kernel_size}) == len({*conv.stride}) == len({*padding}) == 1
    plain = conv.groups == 1 and square and conv.dilation == (1, 1)
    if plain and conv.stride[0] > 1 and conv.in_channels <= FEW_CHANNELS:
        return _PhaseStep(weight, padding[0], conv.stride[0], shape)
    if plain and conv.stride[0] == 1 and padding[0] < conv.kernel_size[0]:
        return _TurnedStep(weight, padding[0], shape)
    return _LibraryStep(conv, weight)


class _Step:
    """From the gradient of a convolution's output (B, O, h, w) to its input's (B, C, H, W)."""

    def __call__(self, grad: Tensor, shape: torch.Size) -> Tensor:
        raise NotImplementedError


class _LibraryStep(_Step):
    """The library's own input gradient, for any geometry."""

    def __init__(self, conv: nn.Conv2d, weight: Tensor) -> None:
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._geometry = (list(conv.stride), list(conv.padding), list(conv.dilation))
        self._groups = conv.groups

    def __call__(self, grad: Tensor, shape: torch.Size) -> Tensor:
        # Of the input, only shape and layout are looked at: its memory is never touched.
        images = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
        mask = [True, False, False]
        return torch.ops.aten.convolution_backward(
            _laid_out(grad),
            images,
            self._weight,
            None,
            *self._geometry,
            False,
            [0, 0],
            self._groups,
            mask,
        )[0]


class _TurnedStep(_Step):
    """Stride 1: the gradient is a convolution with the kernel turned by half a circle."""

    def __init__(self, weight: Tensor, padding: int, shape: torch.Size) -> None:
        kernel = weight.shape[2]
        size = [shape[0], weight.shape[0]]
        size += [extent + 2 * padding - kernel + 1 for extent in shape[2:]]
        turned = weight.flip(2, 3).transpose(0, 1).contiguous()
        border = kernel - 1 - padding
        self._geometry = ([border, border], [1, 1], [1, 1], 1)
        self._weight = _packed(turned, *self._geometry, size)

    def __call__(self, grad: Tensor, shape: torch.Size) -> Tensor:
        return _convolve(_laid_out(grad), self._weight, None, *self._geometry, "none", [], "")


class _PhaseStep(_Step):
    """Stride s: all s² phases of the gradient as channels of one convolution of stride 1."""

    def __init__(self, weight: Tensor, padding: int, stride: int, shape: torch.Size) -> None:
        kernel, self._before = phase_kernel(weight, padding, stride)
        self._stride, self._taps, self._channels = stride, kernel.shape[2], weight.shape[1]
        outputs = [(extent + 2 * padding - weight.shape[2]) // stride + 1 for extent in shape[2:]]
        borders = [self._borders(n, extent) for n, extent in zip(outputs, shape[2:], strict=True)]
        self._padding = [max(self._before, after) for after in borders]
        self._weight = _packed(
            kernel, self._padding, [1, 1], [1, 1], 1, [shape[0], weight.shape[0], *outputs]
        )

    def _borders(self, outputs: int, extent: int) -> int:
        """Zeros needed behind the gradient so that the phases cover the input's extent."""
        return max(0, -(-extent // self._stride) - outputs + self._taps - 1 - self._before)

    def __call__(self, grad: Tensor, shape: torch.Size) -> Tensor:
        stride, channels = self._stride, self._channels
        needed = [
            self._borders(n, extent) for n, extent in zip(grad.shape[2:], shape[2:], strict=True)
        ]
        padding = [max(self._before, after) for after in needed]
        phases = _convolve(
            _laid_out(grad), self._weight, None, padding, [1, 1], [1, 1], 1, "none", [], ""
        )
        rows, columns = (-(-extent // stride) for extent in shape[2:])
        top, left = (border - self._before for border in padding)
        phases = phases[:, :, top : top + rows, left : left + columns].permute(0, 2, 3, 1)
        # (B, h, w, s·s·C) to (B, h·s, w·s, C); each copied piece is a whole row of a phase.
        spread = phases.unflatten(3, (stride, stride * channels)).transpose(2, 3)
        images = spread.reshape(shape[0], rows * stride, columns * stride, channels)
        return images[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)


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
    taps = last - first + 1
    # A border of zeros so that every tap outside the kernel reads a zero.
    reach = stride * taps + padding + stride
    wide = F.pad(weight, (reach, reach, reach, reach))
    place = torch.arange(stride)[:, None] + padding + stride * (last - torch.arange(taps)) + reach
    place = place.flatten().to(weight.device)
    picked = wide[:, :, place][:, :, :, place]
    picked = picked.reshape(outputs, channels, stride, taps, stride, taps)
    kernel = picked.permute(2, 4, 1, 0, 3, 5).reshape(-1, outputs, taps, taps)
    return kernel.contiguous(), last


def _laid_out(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)
