"""Layer-wise relevance propagation through attention: AttnLRP and CP-LRP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency_lab.attribution.core.attention import attention_in_the_open, multi_head_in_the_open
from saliency_lab.attribution.core.completeness import BaselineField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import (
    PRODUCTS,
    QUOTIENTS,
    THROUGH_ZERO,
    PropagationRules,
    Rule,
    Weighted,
    plain,
    proportional,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator

Attention = Literal["attn_lrp", "cp_lrp"]

# Choices and repetitions of entries, whose gradient is the right way back.
CHOICES = ("repeat_interleave", "repeat", "masked_fill", "where", "select", "narrow", "max_pool2d")
# What a tensor is scaled by: a number of the input, taken as a constant.
SCALES = ("sigmoid", "hardsigmoid", "rsqrt", "sqrt", "norm", "linalg_vector_norm", "std", "var")


def attn_lrp(
    model: nn.Module,
    images: Tensor,
    *,
    attention: Attention = "attn_lrp",
    generator: SampleGenerator | None = None,
) -> BaselineField:
    """LRP of a transformer, from the logit down to the pixels.

    Achtibat et al. 2024, "AttnLRP", section 3.3: a product of two activations gives each half of
    its relevance (proposition 3.3: query with key, attention with value, gated units), softmax is
    expanded at its input (proposition 3.1, in units of input × gradient its own derivative), a
    normalisation passes relevance as if its standard deviation were a constant (proposition 3.4),
    activations pass it unchanged, linear layers follow LRP-0. `cp_lrp` instead takes the whole
    attention weights for constants (Ali et al. 2022, section 4), so that nothing goes to queries
    and keys. Gates that are sigmoids are constants in both: the signal takes all (Arras et al.
    2019, section 7.3.3). All are met as operations, so the model's own classes stay as they are,
    fused attention included; windows, relative positions, rotary embeddings, q_norm, k_norm,
    class and register tokens need nothing of their own, and networks without attention have the
    same rules.

    Args:
        model: any module from images to logits (B, K) made of operations with a rule.
        images: shape (B, C, H, W), in [0, 1]; a black pixel gets no relevance.
        attention: which rules the attention has.
        generator: not used.

    Returns:
        Signed field in logit units. It sums to the logit but for what biases take: those of the
        layers, position embeddings, prefix tokens and the mean that a model subtracts
        (`completeness.completeness_error` tells how much).

    Raises:
        UserError: the model computes something without a rule.
    """
    return GraphField(
        model,
        images,
        PropagationRules(attention, transformer_rules(attention)),
        factor=lambda image, _: image,
        conserves=True,
    )


def transformer_rules(attention: Attention) -> dict[str, Rule]:
    """From operations to the rules of `attn_lrp`, for slopes."""
    constant = attention == "cp_lrp"
    rules: dict[str, Rule] = dict.fromkeys(PRODUCTS_OF_TWO, _halves)
    rules |= dict.fromkeys(QUOTIENTS_OF_TWO, _constant_divisor)
    rules |= dict.fromkeys(("relu", *CHOICES), plain)
    rules |= dict.fromkeys((*THROUGH_ZERO, "square"), proportional)
    rules |= dict.fromkeys(SCALES, _constant)
    rules |= {"layer_norm": _layer_norm, "group_norm": _group_norm}
    rules |= {"rms_norm": _rms_norm, "normalize": _normalized, "pow": _power}
    rules["softmax"] = _constant if constant else plain
    rules["scaled_dot_product_attention"] = _attention(constant)
    rules["multi_head_attention_forward"] = _multi_head(constant)
    return rules


# Names without the underscore of what works in place, as rules are found.
PRODUCTS_OF_TWO = frozenset(name for name in PRODUCTS if not name.endswith("_"))
QUOTIENTS_OF_TWO = frozenset(name for name in QUOTIENTS if not name.endswith("_"))


def _constant(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return func(args[0].detach(), *args[1:], **kwargs)


def _constant_divisor(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    divisor = args[1].detach() if isinstance(args[1], Tensor) else args[1]
    return func(args[0], divisor, *args[2:], **kwargs)


def _halves(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Each of n factors that depend on the input gets an n-th of the relevance."""
    if len(args) == 2 and isinstance(args[1], (list, tuple)):
        args = (args[0], *args[1])
    values = [*args, *kwargs.values()]
    scaled = _scaled_back(values, _share(values))
    named = dict(zip(kwargs, scaled[len(args) :], strict=True))
    product: Tensor = func(*scaled[: len(args)], **named)
    return product


def _share(factors: Iterable[Any]) -> float:
    """An n-th for n factors that depend on the input."""
    return 1 / max(1, sum(_depends(one) for one in factors))


def _depends(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _scaled_back(values: Iterable[Any], share: float) -> list[Any]:
    """The same values, whose slopes are multiplied by a share."""
    if share == 1:
        return list(values)
    return [
        Weighted.apply(one, one.detach(), one.new_tensor(share)) if _depends(one) else one
        for one in values
    ]


def _attention(constant: bool) -> Rule:
    def rule(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        if constant:
            return attention_in_the_open(**given, seen=lambda weights: weights.detach())
        asking, value = [given["query"], given["key"]], given["value"]
        # The weights depend on the input if anything does that they are computed from.
        weighing = any(_depends(one) for one in (*asking, given.get("attn_mask")))
        share = 0.5 if weighing and _depends(value) else 1
        given["query"], given["key"] = _scaled_back(asking, _share(asking))
        (given["value"],) = _scaled_back([value], share)
        return attention_in_the_open(
            **given, seen=lambda weights: _scaled_back([weights], share)[0]
        )

    return rule


def _multi_head(constant: bool) -> Rule:
    """torch's MultiheadAttention: attention between linear layers."""

    def attend(*parts: Tensor, attn_mask: Tensor | None) -> Tensor:
        kept = {"attn_mask": attn_mask}
        return _attention(constant)(F.scaled_dot_product_attention, parts, kept)

    def rule(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return multi_head_in_the_open(args, kwargs, attend)

    return rule


def _layer_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5}
    given |= dict(zip(names, args, strict=False)) | kwargs
    x, sides = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
    return _affine(_standardised(x, sides, given["eps"]), given["weight"], given["bias"])


def _group_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ("input", "num_groups", "weight", "bias", "eps")
    given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5}
    given |= dict(zip(names, args, strict=False)) | kwargs
    x = given["input"]
    groups = x.reshape(len(x), given["num_groups"], -1)
    per_channel = [
        None if given[name] is None else given[name].view(-1, *[1] * (x.dim() - 2))
        for name in ("weight", "bias")
    ]
    return _affine(_standardised(groups, (-1,), given["eps"]).view_as(x), *per_channel)


def _rms_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ("input", "normalized_shape", "weight", "eps")
    given: dict[str, Any] = {"weight": None, "eps": None}
    given |= dict(zip(names, args, strict=False)) | kwargs
    x, sides = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
    eps = torch.finfo(x.dtype).eps if given["eps"] is None else given["eps"]
    size = (x.detach().square().mean(sides, keepdim=True) + eps).sqrt()
    return _affine(x / size, given["weight"], None)


def _normalized(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    given: dict[str, Any] = {"p": 2.0, "dim": 1, "eps": 1e-12}
    given |= dict(zip(("input", "p", "dim", "eps"), args, strict=False)) | kwargs
    x: Tensor = given["input"]
    return x / x.detach().norm(given["p"], given["dim"], keepdim=True).clamp_min(given["eps"])


def _power(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """An activation from the first power up; below it, something that is divided by."""
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    grows = isinstance(exponent, (int, float)) and exponent >= 1
    return (proportional if grows else _constant)(func, args, kwargs)


def _standardised(x: Tensor, sides: tuple[int, ...], eps: float) -> Tensor:
    variance = x.detach().var(sides, unbiased=False, keepdim=True)
    return (x - x.mean(sides, keepdim=True)) / (variance + eps).sqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
