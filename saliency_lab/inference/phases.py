"""The input gradient of a first layer, as a convolution that fills the vector units."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# With that many input channels a gradient written channel by channel wastes the vector units.
_FEW_CHANNELS = 4
# From that many rows or columns on, one more is a small part.
_LARGE = 32

# Looked up where they are used, see `convolution`.
_ONEDNN = torch.ops.mkldnn


def has_phases(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind that `PhaseGradient` is for."""
    few = conv.in_channels <= _FEW_CHANNELS and conv.groups == 1 and conv.dilation == (1, 1)
    alike = len({*conv.kernel_size}) == len({*conv.stride}) == len({*conv.padding}) == 1
    return few and alike and conv.stride[0] > 1


class PhaseGradient:
    """The input gradient of a strided convolution: its phases as channels of one of stride 1."""

    def __init__(self, conv: nn.Conv2d, shape: torch.Size) -> None:
        weight, padding, step = conv.weight.detach(), int(conv.padding[0]), conv.stride[0]
        kernel, before = phase_kernel(weight, padding, step)
        outputs = [(n + 2 * padding - weight.shape[2]) // step + 1 for n in shape[2:]]
        self._phases = [-(-extent // step) for extent in shape[2:]]
        behind = [
            max(0, whole - n + kernel.shape[2] - 1 - before)
            for whole, n in zip(self._phases, outputs, strict=True)
        ]
        # The library pads both ends alike. What is too much in front is cut off again, unless it
        # is a good part of a small image: there a copy with zeros at the end alone is cheaper.
        small = max(outputs) < _LARGE
        borders = [before if small else max(before, after) for after in behind]
        self._cut = [border - before for border in borders]
        self._missing = [
            max(0, after - border) for after, border in zip(behind, borders, strict=True)
        ]
        padded = [n + extra for n, extra in zip(outputs, self._missing, strict=True)]
        geometry = (borders, [1, 1], [1, 1], 1)
        packed = _ONEDNN._reorder_convolution_weight(
            kernel, *geometry, [shape[0], weight.shape[0], *padded]
        )
        self._packed = (packed, None, *geometry)
        self._step, self._shape = step, shape

    def __call__(self, grad: Tensor) -> Tensor:
        (top, left), (below, right) = self._cut, self._missing
        (rows, columns), step = self._phases, self._step
        _, channels, height, width = self._shape
        grad = grad.contiguous(memory_format=torch.channels_last)
        if below or right:
            grad = F.pad(grad, (0, right, 0, below))
        phases = _ONEDNN._convolution_pointwise(grad, *self._packed, "none", [], "")
        phases = phases[:, :, top : top + rows, left : left + columns].permute(0, 2, 3, 1)
        # (B, h, w, s·s·C) to (B, h·s, w·s, C); each copied piece is a whole row of a phase.
        spread = phases.unflatten(3, (step, step * channels)).transpose(2, 3)
        whole = spread.reshape(len(grad), rows * step, columns * step, channels)
        return whole[:, :height, :width].permute(0, 3, 1, 2)


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
