"""The phases of a strided convolution's input gradient, by hand and in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from saliency_lab.inference.phases import phase_kernel


def test_phase_kernel_by_hand() -> None:
    """One dimension: W = (a b c), stride 2, padding 1: y[i] = a·x[2i−1] + b·x[2i] + c·x[2i+1].

    The gradient at 2q is b·gy[q]; at 2q + 1 it is c·gy[q] + a·gy[q + 1].
    """
    weight = torch.tensor([2.0, 3.0, 5.0])
    square = (weight[:, None] * weight)[None, None]
    kernel, before = phase_kernel(square, padding=1, stride=2)
    even, odd = torch.tensor([3.0, 0.0]), torch.tensor([5.0, 2.0])
    assert before == 0
    for phase, (rows, columns) in enumerate([(even, even), (even, odd), (odd, even), (odd, odd)]):
        assert torch.equal(kernel[phase, 0], rows[:, None] * columns)


def test_phase_convolution_in_float64() -> None:
    weight = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    grad = torch.randn(2, 4, 10, 10, dtype=torch.float64)
    kernel, before = phase_kernel(weight, padding=3, stride=2)
    after = kernel.shape[2] - 1 - before
    phases = F.conv2d(F.pad(grad, (before, after, before, after)), kernel)
    found = phases.view(2, 2, 2, 3, 10, 10).permute(0, 3, 4, 1, 5, 2).reshape(2, 3, 20, 20)
    wanted = torch.nn.grad.conv2d_input((2, 3, 20, 20), weight, grad, stride=2, padding=3)
    torch.testing.assert_close(found, wanted)
