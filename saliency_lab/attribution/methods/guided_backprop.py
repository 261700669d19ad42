"""DeconvNet and guided backpropagation: other backward rules for the ReLUs of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import ELEMENTWISE, PropagationRules, Rule
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError

# Activations that the rules say nothing about. Sigmoids are left out: they are gates.
OTHER_ACTIVATIONS = (ELEMENTWISE - {"relu", "clamp", "sigmoid", "hardsigmoid"}) | {"threshold"}


class DeconvReLU(torch.autograd.Function):
    """Backward: the positive part of what arrives, whatever the forward input was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> Tensor:
        return arriving[0].relu()


class GuidedReLU(torch.autograd.Function):
    """Backward: the positive part of what arrives, where the forward input was positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.relu()
        ctx.save_for_backward(y > 0)
        return y

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> Tensor:
        (passed,) = ctx.saved_tensors
        return arriving[0].relu() * passed


def deconvnet(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """DeconvNet as a backward pass: R_n = ReLU(R_{n+1}) at every ReLU.

    Zeiler & Fergus 2014, section 2.1; as a rule for the gradient, Simonyan et al. 2014, section
    4. Max-pooling passes to the place of the maximum (the paper's switches), other layers pass
    their gradient. Rules live in the recorded graph, so a ReLU that is used several times, works
    in place or is called as a function (`F.relu`, `clamp(min=0)`) obeys them too.

    Args:
        model: any module from images to logits (B, K) whose activations are all ReLUs.
        images: shape (B, C, H, W), in [0, 1].
        generator: not used.

    Returns:
        Signed field; its scale has no unit that means anything.

    Raises:
        UserError: the model has no ReLU, or has activations of other kinds.
    """
    return GraphField(model, images, relu_rule(DeconvReLU.apply, "deconvnet"))


def guided_backprop(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """Guided backpropagation: R_n = ReLU(R_{n+1}) · [input > 0] at every ReLU.

    Springenberg et al. 2015, section 3.4 and figure 1. Arguments, result and errors as in
    `deconvnet`.
    """
    return GraphField(model, images, relu_rule(GuidedReLU.apply, "guided_backprop"))


@contextmanager
def relu_rule(rule: Callable[[Tensor], Tensor], method: str) -> Iterator[PropagationRules]:
    """Every ReLU on the way from the input computes `rule` for the length of a `with` block.

    Raises:
        UserError: on leaving, if not all activations on that way are ReLUs, or none is.
    """
    met: set[str] = set()

    def rectified(
        func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        met.add("relu")
        return rule(args[0])

    def clamped(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if _clamps_to_zero(*args[1:], **kwargs):
            return rectified(func, args, kwargs)
        output: Tensor = func(*args, **kwargs)
        return output

    def noted(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        met.add(func.__name__)
        output: Tensor = func(*args, **kwargs)
        return output

    rules: dict[str, Rule] = dict.fromkeys(OTHER_ACTIVATIONS, noted)
    rules |= {"relu": rectified, "clamp": clamped, "clamp_min": clamped}
    with PropagationRules(method, rules, linear=None) as mode:
        yield mode
    _require_only_relu(met, method)


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


def _clamps_to_zero(min: Any = None, max: Any = None) -> bool:
    return not isinstance(min, Tensor) and min == 0 and max is None
