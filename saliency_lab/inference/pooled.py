"""A convolution and the max-pool behind it, a few images at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.inference.convolution import FrozenConv

# Numbers of a convolution's output that are worked on at once: 2 MiB, which a core's caches hold.
# The whole batch's would go to memory and come back, in every pass.
_AT_ONCE = 2**19

_pool = torch.ops.aten.max_pool2d_with_indices
_unpool = torch.ops.aten.max_pool2d_with_indices_backward


class PooledConv(nn.Module):
    """relu(max-pool(conv(x))) with frozen weights; the ReLU is optional.

    Between convolution and pool a first layer has the largest activations of a network. Here they
    exist for a few images at a time, in both directions, and nothing of them is kept but where
    each window's maximum was.

    Args:
        conv: a 2-D convolution with numeric zero padding.
        pool: the max-pool that alone reads the convolution's output.
        relu: whether a ReLU follows.
        shape: shape (B, C, H, W) of a typical input, as for `FrozenConv`.
        between: shape (B, O, h, w) of the convolution's output for it.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        pool: nn.MaxPool2d,
        relu: bool,
        shape: torch.Size,
        between: torch.Size,
    ) -> None:
        super().__init__()
        self.conv, self.pool, self.relu = FrozenConv(conv, False, shape), pool, relu
        self.between = between[1:]
        self.at_once = max(1, _AT_ONCE // self.between.numel())
        sides = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        pairs = [[side, side] if isinstance(side, int) else list(side) for side in sides]
        self.window = (*pairs, pool.ceil_mode)
        self._size = shape[2:]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, h, w)."""
        if images.shape[2:] != self._size:
            output = self.pool(self.conv(images))
            return output.relu() if self.relu else output
        if images.requires_grad and torch.is_grad_enabled():
            return _Differentiable.apply(images, self)
        return torch.cat([pooled for pooled, _ in self.parts(images)])

    def parts(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """A few images' output at a time, without a graph, and where each maximum was."""
        for part in images.split(self.at_once):
            pooled, places = _pool(self.conv.steps.output(part, None), *self.window)
            yield pooled.relu_() if self.relu else pooled, places

    def input_gradient(self, grad: Tensor, places: Tensor, output: Tensor | None) -> Tensor:
        """From the gradient of the output, let through where `output` is positive, to the input's.

        The convolution's own output is not needed, only its shape.
        """
        like = grad.new_empty(min(len(grad), self.at_once), *self.between)
        like = like.contiguous(memory_format=torch.channels_last)
        found = []
        for start in range(0, len(grad), self.at_once):
            rows = slice(start, start + self.at_once)
            part = grad[rows]
            if output is not None:
                part = torch.ops.aten.threshold_backward(part, output[rows], 0)
            part = part.contiguous(memory_format=torch.channels_last)
            spread = _unpool(part, like[: len(part)], *self.window, places[rows])
            found.append(self.conv.steps.input_gradient(spread))
        return torch.cat(found)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, layer: PooledConv) -> Tensor:
        pooled, where = zip(*layer.parts(images), strict=True)
        output, places = torch.cat(pooled), torch.cat(where)
        ctx.layer = layer
        ctx.save_for_backward(places, *((output,) if layer.relu else ()))
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        places, *output = ctx.saved_tensors
        return ctx.layer.input_gradient(grad, places, output[0] if output else None), None
