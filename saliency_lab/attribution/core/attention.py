"""The attention weights of a forward pass, met where they are computed."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saliency_lab.errors import UserError

_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)
_UNUSUAL = (
    "bias_k", "bias_v", "add_zero_attn", "key_padding_mask", "use_separate_proj_weight",
    "static_k", "static_v",
)  # fmt: skip


class AttentionCall(NamedTuple):
    """One softmax over tokens."""

    name: str
    """Dotted name of the module that called it."""

    weights: Tensor
    """Shape (B, heads, tokens, tokens), rows sum to 1; part of the recorded graph."""

    mixing: int | None = None
    """Heads of what was multiplied with the values; None where no such product was met."""


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[AttentionCall]]:
    """Every softmax and every fused attention of a forward pass inside the block, in order.

    Fused attention is computed in the open for that pass, whichever module calls it, so no
    module's own switch has to be turned; hooks that tell the calling module are removed.

    Raises:
        UserError: inside the block, at a MultiheadAttention of torch's that is no plain
            self-attention.
    """
    calls: list[AttentionCall] = []
    running: list[str] = []

    def entered(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: running.append(name)

    def left(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(entered(name)))
        hooks.append(module.register_forward_hook(left))
    try:
        with _AttentionWatch(calls, running):
            yield calls
    finally:
        for hook in hooks:
            hook.remove()


class _AttentionWatch(TorchFunctionMode):
    def __init__(self, calls: list[AttentionCall], running: list[str]) -> None:
        super().__init__()
        self._calls, self._running = calls, running

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            attend = functools.partial(attention_in_the_open, seen=self._record)
            return multi_head_in_the_open(args, kwargs, attend)
        if name == "scaled_dot_product_attention":
            return attention_in_the_open(*args, **kwargs, seen=self._record)
        if name in ("matmul", "__matmul__") and self._calls and args:
            self._note_mixing(args[0])
        output = func(*args, **kwargs)
        return self._record(output) if name == "softmax" else output

    def _note_mixing(self, factor: Tensor) -> None:
        """Of the first product after a softmax whose factor is as long and wide as its weights."""
        last = self._calls[-1]
        same = factor.dim() == 4 and factor.shape[2:] == last.weights.shape[2:]
        if same and last.mixing is None:
            self._calls[-1] = last._replace(mixing=factor.shape[1])

    def _record(self, weights: Tensor) -> Tensor:
        # The calling module may be an nn.Softmax; its parent is the attention.
        if weights.requires_grad:
            self._calls.append(AttentionCall(self._running[-1].removesuffix(".softmax"), weights))
        return weights


def attention_in_the_open(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    seen: Callable[[Tensor], Tensor] = lambda weights: weights,
) -> Tensor:
    """What `scaled_dot_product_attention` computes, operation by operation.

    Args:
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa: torch's own.
        seen: is given the weights (…, queries, keys), which sum to 1 over the keys; its answer
            goes on in their place.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill_(
            ~attn_mask, -torch.inf
        )
    if attn_mask is not None:
        scores = scores + attn_mask
    weights = seen(scores.softmax(-1))
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return weights @ value


def multi_head_in_the_open(
    args: Sequence[Any], kwargs: Mapping[str, Any], attend: Callable[..., Tensor]
) -> tuple[Tensor, Tensor | None]:
    """What torch's MultiheadAttention computes, operation by operation.

    Args:
        args, kwargs: of `torch.nn.functional.multi_head_attention_forward`.
        attend: from query, key and value (B, heads, tokens, D) and `attn_mask=` to the values
            mixed.

    Returns:
        The output (tokens, B, heads · D) and, where they are asked for, the weights (B, tokens,
        tokens), the mean over heads.

    Raises:
        UserError: padding, biases or weights that self-attention over an image has not.
    """
    given = _MULTI_HEAD.bind(*args, **kwargs).arguments
    unusual = [name for name in _UNUSUAL if not (given.get(name) is None or given[name] is False)]
    if unusual or given["query"].dim() != 3:
        raise UserError(
            "Expected torch's MultiheadAttention of `model` to be plain self-attention over "
            f"batches of tokens, but got {', '.join(unusual) or 'tokens without a batch'}."
        )
    bias = given["in_proj_bias"]
    weights = given["in_proj_weight"].chunk(3)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    query, key, value = (
        F.linear(given[name], weight, own)
        .unflatten(-1, (given["num_heads"], -1))
        .permute(1, 2, 0, 3)
        for name, weight, own in zip(("query", "key", "value"), weights, biases, strict=True)
    )
    mask = given.get("attn_mask")
    mask = mask if mask is None or mask.dim() == 2 else mask.view(len(query), -1, *mask.shape[1:])
    mixed = attend(query, key, value, attn_mask=mask).permute(2, 0, 1, 3).flatten(2)
    output = F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"])
    if not given.get("need_weights", True):
        return output, None
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    shown = (scores if mask is None else scores + mask).softmax(-1)
    return output, shown.mean(1) if given.get("average_attn_weights", True) else shown


def global_attention(calls: list[AttentionCall], batch: int, method: str) -> list[Tensor]:
    """The weights of a transformer in which every token meets every other in every block.

    Args:
        calls: from `recorded_attention`.
        batch: images B of the forward pass.
        method: its name, for the refusal.

    Returns:
        One tensor (B, heads, N, N) per block, N the same in all.

    Raises:
        UserError: there is no attention, or it is of another kind: in windows, of fewer queries
            than keys, over another number of tokens in each stage, several side by side in a
            block (timm's parallel blocks, differential attention).
    """

    def refusal(found: str) -> UserError:
        return UserError(
            f"Expected `model` to attend from every token to every other in each block, because "
            f"{method} follows tokens through the blocks, but got {found}."
        )

    if not calls:
        raise refusal("no attention")
    tokens = calls[0].weights.shape[-1]
    before: Tensor | None = None
    for name, weights, mixing in calls:
        shape = tuple(weights.shape)
        if len(shape) != 4:
            raise refusal(f"a softmax over {shape} in '{name}'")
        if shape[0] != batch and shape[0] % batch == 0:
            raise refusal(f"window attention, {shape[0] // batch} windows an image, in '{name}'")
        if shape[0] != batch or shape[2] != shape[3]:
            raise refusal(f"{shape[2]} queries over {shape[3]} keys in '{name}'")
        if shape[3] != tokens:
            raise refusal(f"stages of {tokens} and {shape[3]} tokens, the second in '{name}'")
        if mixing is not None and mixing < shape[1]:
            raise refusal(f"{shape[1]} heads joined to {mixing} before the values in '{name}'")
        if before is not None and not _follows(weights, before):
            raise refusal(f"two attentions side by side in one block, the second in '{name}'")
        before = weights
    return [call.weights for call in calls]


def _follows(later: Tensor, earlier: Tensor) -> bool:
    """Whether one tensor of a recorded graph was computed from another."""
    waiting: list[Any] = [later.grad_fn]
    met: set[Any] = {None}
    while waiting:
        node = waiting.pop()
        if node is earlier.grad_fn:
            return True
        if node not in met:
            met.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return False
