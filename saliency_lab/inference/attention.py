"""Attention on the CPU in bfloat16, with a backward pass of plain matrix products."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx


def with_quick_attention(model: fx.GraphModule) -> fx.GraphModule:
    """The model, whose attentions without dropout or order of time are `attention` now.

    Args:
        model: a copy in bfloat16, on the CPU, that is given images alone; changed.
    """
    for node in model.graph.nodes:
        if node.target is F.scaled_dot_product_attention:
            quick = _arguments(*node.args, **node.kwargs)
            if quick is not None:
                node.target, node.args, node.kwargs = attention, quick, {}
    model.recompile()
    return model


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """softmax(scale · Q Kᵀ + mask) V, and its gradient at a part of the price.

    Forward it is PyTorch's fused attention. Its backward is slow in bfloat16 on the CPU; here the
    weights are made once more and multiplied in bfloat16, which takes memory for them,
    (…, queries, keys), while one layer is at work.

    Args:
        query, key, value: (…, tokens, features); equal leading sizes.
        mask: (…, queries, keys) to be added, or of truth values, False where a key is not seen;
            it gets no gradient.
        scale: None for 1 / √features.
    """
    found: Tensor = _Attention.apply(query, key, value, mask, scale)
    return found


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | None,
    ) -> Tensor:
        output = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (grad,) = grads
        query, key, value, mask, output = ctx.saved_tensors
        scores = (query * ctx.scale) @ key.mT
        if mask is not None:
            shown = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if shown else scores + mask
        weights = torch.softmax(scores, -1)
        # The softmax's gradient needs Σ_k P_k ∂P_k, which is the product of output and gradient.
        slope = weights * (grad @ value.mT - (grad * output).sum(-1, keepdim=True))
        to_query, to_key = (slope @ key) * ctx.scale, (slope.mT @ query) * ctx.scale
        return to_query, to_key, weights.mT @ grad, None, None


def _arguments(
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    scale: Any = None,
    enable_gqa: Any = False,
) -> tuple[Any, ...] | None:
    """What `attention` is to be called with; None where it is asked for more than it does."""
    mask, *others = map(_given, (attn_mask, dropout_p, is_causal, enable_gqa))
    return None if any(others) else (query, key, value, mask, scale)


def _given(value: Any) -> Any:
    """An argument of the model that is not given to it is what it is by default."""
    missing = isinstance(value, fx.Node) and value.op == "placeholder" and value.args
    return value.args[0] if missing else value
