"""Rules of operations for a backward pass of relevance: which layer rule where, and the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saliency_lab.attribution.core.propagation import (
    ELEMENTWISE,
    PropagationRules,
    Rule,
    no_rule,
    plain,
    remember,
    remembered,
)
from saliency_lab.attribution.core.relevance import (
    Affine,
    Redistributed,
    RelevanceRule,
    stabilised,
)
from saliency_lab.errors import UserError
from saliency_lab.frozen import frozen, model_place

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
LAYERS = (*CONVOLUTIONS, "linear")
# A choice or another order of the entries, to which relevance goes as slopes do.
REARRANGING = frozenset({
    "dropout", "dropout2d", "feature_dropout", "cat", "concat", "concatenate", "stack", "chunk",
    "split", "unbind", "flatten", "unflatten", "reshape", "reshape_as", "view", "view_as",
    "unfold", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "expand", "contiguous",
    "clone", "to", "float", "double", "type_as", "__getitem__", "pad", "pixel_shuffle",
    "pixel_unshuffle", "roll", "flip", "__get__",
})  # fmt: skip
POOLS = (
    "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "sum",
    "interpolate",
)  # fmt: skip
MAXIMA = ("max_pool1d", "max_pool2d", "adaptive_max_pool2d")
# One number in, one number out, as long as the other factor or summand is a constant.
SHIFTS = ("add", "sub", "__rsub__", "rsub")
SCALINGS = ("mul", "multiply", "div", "divide", "true_divide", "neg")
UNBOUNDED = ELEMENTWISE - {"sigmoid", "hardsigmoid"}

LayerRule = Callable[[bool, bool], RelevanceRule]
"""From whether a layer is the first and whether it is a convolution to its rule."""


def relevance_rules(method: str, layer_rule: LayerRule) -> PropagationRules:
    """The rules of a forward pass whose backward hands on relevance.

    Convolutions and linear layers, each with the batch norm of its outputs merged in, follow
    `layer_rule`; sums of activations and average pools share in proportion to their terms;
    max-pooling gives all to the maximum; whatever maps one number to one (activations, constant
    shifts and factors, a batch norm of anything else) passes it on.
    """
    seen: list[str] = []

    def layer(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        affine = _affine(method, func, args, kwargs)
        rule = layer_rule(not seen, func.__name__ in CONVOLUTIONS)
        seen.append(func.__name__)
        with torch.no_grad():
            value = func(*args, **kwargs)
        return _ruled(value, affine, rule)

    def one_to_one(
        func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        return _passed(method, func, args, kwargs)

    def total(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        summands = sum(isinstance(one, Tensor) and one.requires_grad for one in args)
        return (_shared if summands > 1 else one_to_one)(func, args, kwargs)

    rules: dict[str, Rule] = dict.fromkeys(LAYERS, layer)
    rules |= dict.fromkeys((*UNBOUNDED, *SCALINGS), one_to_one)
    rules |= dict.fromkeys(SHIFTS, total)
    rules |= dict.fromkeys(POOLS, _shared)
    rules |= dict.fromkeys(MAXIMA, plain)
    rules["batch_norm"] = lambda func, args, kwargs: _merged(one_to_one, func, args, kwargs)
    return PropagationRules(method, rules, REARRANGING)


def input_bounds(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest inputs (1, C, H, W) of the first layer: those of black and white.

    Exact where the model does nothing before it but scale and shift channels.
    """
    ends = [
        torch.full_like(images[:1], value).to(*model_place(model, images)) for value in (0.0, 1.0)
    ]
    with torch.inference_mode(False), torch.no_grad(), frozen(model):
        found = [_first_layer_input(model, end) for end in ends]
        return torch.minimum(*found), torch.maximum(*found)


class _FoundError(Exception):
    """The input of the first layer; what comes after it need not be computed."""


class _FirstLayer(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in LAYERS:
            raise _FoundError((kwargs or {}).get("input", args[0] if args else None))
        return func(*args, **(kwargs or {}))


def _first_layer_input(model: nn.Module, image: Tensor) -> Tensor:
    try:
        with _FirstLayer():
            model(image.clone())
    except _FoundError as found:
        first: Tensor = found.args[0]
        return first
    raise UserError("Expected `model` to have a convolution or linear layer, but got none.")


def _affine(
    method: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Affine:
    """What a call of a layer computes, with its input and parameters as arguments."""
    named = ("input", "weight", "bias")
    given = {"bias": None, **dict(zip(named, args, strict=False)), **kwargs}
    options = {name: value for name, value in kwargs.items() if name not in named}
    if given["weight"].requires_grad:
        raise no_rule(f"{func.__name__} with weights that depend on the input", method)

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output: Tensor = func(x, weight, bias, *args[3:], **options)
        return output

    return Affine(linear, given["input"], given["weight"], given["bias"])


def _ruled(value: Tensor, affine: Affine, rule: RelevanceRule) -> Tensor:
    # A copy, because the input may be overwritten in place later on.
    known = affine._replace(x=affine.x.detach().clone())
    ruled: Tensor = Redistributed.apply(value, lambda arriving: (rule(known, arriving),), affine.x)
    # A batch norm that comes next is merged into the layer.
    remember(ruled, (affine, rule))
    return ruled


def _merged(
    alone: Rule, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """A batch norm in eval mode, as part of the layer whose output it is given."""
    layer = remembered(args[0])
    # Of tokens (B, N, F) a linear layer's outputs are the last axis, and the norm's channels are
    # the second, as always: no scaling of the layer's outputs could stand for the norm.
    if layer is None or args[0].dim() != layer[0].weight.dim():
        return alone(func, args, kwargs)
    named = ("input", "mean", "variance", "weight", "bias", "training", "momentum", "eps")
    given = {"weight": None, "bias": None, "eps": 1e-5, **dict(zip(named, args, strict=False))}
    given |= kwargs
    scale = (given["variance"] + given["eps"]).rsqrt()
    scale = scale if given["weight"] is None else scale * given["weight"]
    shift = -given["mean"] * scale
    shift = shift if given["bias"] is None else shift + given["bias"]
    affine, rule = layer
    with torch.no_grad():
        value = func(args[0].detach(), *args[1:], **kwargs)
    return _ruled(value, affine.scaled(scale.detach(), shift.detach()), rule)


def _passed(
    method: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Relevance passes unchanged, one number to one number."""
    values = [*args, *kwargs.values()]
    operands = [one for one in values if isinstance(one, Tensor) and one.requires_grad]
    with torch.no_grad():
        value: Tensor = func(*args, **kwargs)
    if len(operands) != 1 or value.shape != operands[0].shape:
        raise no_rule(f"{func.__name__} of {len(operands)} activations", method)
    passed: Tensor = Redistributed.apply(value, lambda arriving: (arriving,), operands[0])
    return passed


def _shared(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A linear operation without parameters: each term gets the share that it has in the sum."""
    places = [at for at, one in enumerate(args) if isinstance(one, Tensor) and one.requires_grad]
    # Copies, because a sum's operands may be overwritten in place later on.
    operands = [args[at].detach().clone() for at in places]

    def shares(arriving: Tensor) -> tuple[Tensor, ...]:
        terms = [operand.clone().requires_grad_(True) for operand in operands]
        replaced = dict(zip(places, terms, strict=True))
        with torch.enable_grad():
            z = func(*(replaced.get(at, one) for at, one in enumerate(args)), **kwargs)
        slopes = torch.autograd.grad(z, terms, arriving / stabilised(z.detach()))
        return tuple(term.detach() * slope for term, slope in zip(terms, slopes, strict=True))

    with torch.no_grad():
        value = func(*args, **kwargs)
    shared: Tensor = Redistributed.apply(value, shares, *(args[at] for at in places))
    return shared
