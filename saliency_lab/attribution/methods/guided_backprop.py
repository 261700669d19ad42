"""DeconvNet and guided backpropagation: other backward rules for the ReLUs of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import (
    ELEMENTWISE,
    PRODUCTS,
    PropagationRules,
    Rule,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError

# Activations that the rules say nothing about. Sigmoids are left out: they are gates.
OTHER_ACTIVATIONS = (
    ELEMENTWISE - {"relu", "relu6", "hardtanh", "clamp", "sigmoid", "hardsigmoid"}
) | {
    "threshold", "rrelu", "log_sigmoid", "softsign", "hardshrink", "softshrink", "tanhshrink",
    "erf", "abs", "absolute", "__abs__", "sign", "heaviside",
}  # fmt: skip
# The larger or smaller of two: a ReLU, a leaky one or another bend. Of one tensor, `max` is a pool.
_TWO_SIDED = frozenset({"maximum", "minimum", "fmax", "fmin", "max", "min"})
_COMPARISONS = frozenset({
    "gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal",
    "__gt__", "__ge__", "__lt__", "__le__",
})  # fmt: skip
# What keeps or drops activations by a mask.
_MASKED = (PRODUCTS - {"matmul", "__matmul__", "mm", "bmm", "einsum"}) | {
    "multiply_", "where", "masked_fill", "masked_fill_", "__setitem__",
}  # fmt: skip


class DeconvReLU(torch.autograd.Function):
    """Backward: the positive part of what arrives, whatever the forward input was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor, None]:
        return arriving[0].relu(), None


class GuidedReLU(torch.autograd.Function):
    """Backward: the positive part of what arrives, where the forward pass let the input through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        y = x.clamp(0, ceiling)
        ctx.save_for_backward((y > 0) & (y < ceiling))
        return y

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor, None]:
        (passed,) = ctx.saved_tensors
        return arriving[0].relu() * passed, None


def deconvnet(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """DeconvNet as a backward pass: R_n = ReLU(R_{n+1}) at every ReLU.

    Zeiler & Fergus 2014, section 2.1; as a rule for the gradient, Simonyan et al. 2014, section
    4. Max-pooling passes to the place of the maximum (the paper's switches), other layers pass
    their gradient. Rules live in the recorded graph, so a ReLU that is used several times, works
    in place or is called as a function (`F.relu`, `clamp(min=0)`) obeys them too. A ReLU with a
    ceiling (ReLU6) is one of them.

    Args:
        model: any module from images to logits (B, K) whose activations are all ReLUs.
        images: shape (B, C, H, W), in [0, 1].
        generator: not used.

    Returns:
        Signed field; its scale has no unit that means anything.

    Raises:
        UserError: the model has no ReLU, or has activations of other kinds, ReLUs by hand
            (`torch.where`, `torch.maximum`, a product with x > 0) among them.
    """
    return GraphField(model, images, relu_rule(DeconvReLU.apply, "deconvnet"))


def guided_backprop(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """Guided backpropagation: R_n = ReLU(R_{n+1}) · [input > 0] at every ReLU.

    Springenberg et al. 2015, section 3.4 and figure 1. At a ReLU with a ceiling, which the paper
    does not know, nothing passes above it either: its own gradient is 0 there. Arguments, result
    and errors as in `deconvnet`.
    """
    return GraphField(model, images, relu_rule(GuidedReLU.apply, "guided_backprop"))


@contextmanager
def relu_rule(rule: Callable[[Tensor, float], Tensor], method: str) -> Iterator[PropagationRules]:
    """Every ReLU on the way from the input computes `rule` for the length of a `with` block.

    Args:
        rule: of its input and its ceiling, which is infinite for a plain ReLU.
        method: whose rule it is, for messages.

    Raises:
        UserError: on leaving, if not all activations on that way are ReLUs, or none is.
    """
    met: set[str] = set()

    def rectified(x: Tensor, ceiling: float) -> Tensor:
        met.add("relu")
        return rule(x, ceiling)

    def plain_relu(
        func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        return rectified(args[0], 6.0 if func.__name__ == "relu6" else math.inf)

    def bounded(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if any(isinstance(bound, Tensor) for bound in (*args[1:], *kwargs.values())):
            return noted(func, args, kwargs)
        is_activation = func.__name__ == "hardtanh"
        ceiling = (_hardtanh_ceiling if is_activation else _clamp_ceiling)(*args[1:], **kwargs)
        if ceiling is not None:
            return rectified(args[0], ceiling)
        if is_activation:
            met.add(func.__name__)
        output: Tensor = func(*args, **kwargs)
        return output

    def noted(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        met.add(func.__name__)
        output: Tensor = func(*args, **kwargs)
        return output

    rules: dict[str, Rule] = dict.fromkeys(OTHER_ACTIVATIONS, noted)
    rules |= {"relu": plain_relu, "relu6": plain_relu}
    rules |= dict.fromkeys(("clamp", "clip", "clamp_min", "hardtanh"), bounded)
    with _WatchfulRules(method, rules, met) as mode:
        yield mode
    _require_only_relu(met, method)


class _WatchfulRules(PropagationRules):
    """Rules that also meet bends which are no single operation: masks by comparing activations.

    Args:
        method, rules: see `PropagationRules`.
        met: gets what was met.
    """

    def __init__(self, method: str, rules: dict[str, Rule], met: set[str]) -> None:
        super().__init__(method, rules, linear=None)
        self._met = met

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        given = [v for v in (*args, *(kwargs or {}).values()) if isinstance(v, Tensor)]
        activations = [tensor for tensor in given if tensor.requires_grad]
        if name in _TWO_SIDED and activations and len(given) > 1:
            self._met.add(name)
        of_values = {of for tensor in given if (of := _value_of(tensor))}
        if name in _MASKED and activations and "comparison" in of_values:
            self._met.add(f"{name.strip('_')} by a comparison")
        output = super().__torch_function__(func, types, args, kwargs)
        if isinstance(output, Tensor) and not output.requires_grad and (activations or of_values):
            # Not what has an activation's shape alone.
            if name.startswith("new_") or name.endswith("_like"):
                return output
            compared = name in _COMPARISONS or "comparison" in of_values
            noted: Any = output
            noted.value_of = "comparison" if compared else "activations"
        return output


def _value_of(tensor: Tensor) -> str | None:
    """What a tensor without a gradient was computed from, if activations came into it."""
    found: str | None = getattr(tensor, "value_of", None)
    return found


def _require_only_relu(met: set[str], method: str) -> None:
    """Nothing, or the refusal of a network that the rule does not cover."""
    others = ", ".join(sorted(met - {"relu"}))
    if not others and met:
        return
    found = f"activations of other kinds as well ({others})"
    if "relu" not in met:
        found = f"none{f' (its activations are {others})' if others else ''}"
    raise UserError(
        f"Expected `model` to have ReLUs only, because {method} is a rule for them and would "
        f"elsewhere be the plain gradient, but got {found}."
    )


def _hardtanh_ceiling(min_val: float = -1, max_val: float = 1, *_: object) -> float | None:
    """Its ceiling where it is a ReLU, else None."""
    return float(max_val) if min_val == 0 else None


def _clamp_ceiling(min: Any = None, max: Any = None) -> float | None:
    """Its ceiling where it is a ReLU, infinite where it has none; else None."""
    if min != 0:
        return None
    return math.inf if max is None else float(max)
