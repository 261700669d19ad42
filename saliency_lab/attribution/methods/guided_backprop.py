"""DeconvNet and guided backpropagation: other backward rules for the ReLUs of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import ELEMENTWISE
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError

# Activations that the rules say nothing about. Sigmoids are left out: they are gates.
OTHER_ACTIVATIONS = (ELEMENTWISE - {"relu", "clamp", "sigmoid", "hardsigmoid"}) | {"threshold"}
RELU_CALLS = frozenset({"relu", "relu_"})


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
    their gradient. Rules live in the recorded graph, so a ReLU module that is used several times
    or works in place obeys them too.

    Args:
        model: any module from images to logits (B, K) whose activations are all `nn.ReLU`.
        images: shape (B, C, H, W), in [0, 1].
        generator: not used.

    Returns:
        Signed field; its scale has no unit that means anything.

    Raises:
        UserError: the model has no ReLU modules, calls ReLU as a function, or has activations of
            other kinds.
    """
    return GraphField(model, images, relu_rule(model, DeconvReLU.apply, "deconvnet"))


def guided_backprop(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """Guided backpropagation: R_n = ReLU(R_{n+1}) · [input > 0] at every ReLU.

    Springenberg et al. 2015, section 3.4 and figure 1. Arguments, result and errors as in
    `deconvnet`.
    """
    return GraphField(model, images, relu_rule(model, GuidedReLU.apply, "guided_backprop"))


@contextmanager
def relu_rule(
    model: nn.Module, rule: Callable[[Tensor], Tensor], method: str
) -> Iterator[TorchFunctionMode]:
    """Every call of an `nn.ReLU` of the model computes `rule` for the length of a `with` block.

    Nothing of the model is replaced: hooks tell which calls come from a module and are removed,
    and the calls themselves are met in a torch function mode.

    Raises:
        UserError: at a ReLU that is no module's, and on leaving if not all activations are ReLUs.
    """
    mode = _ReLUCalls(rule, method)
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            hooks.append(module.register_forward_pre_hook(mode.enter_module))
            hooks.append(module.register_forward_hook(mode.leave_module))
    try:
        with mode:
            yield mode
        mode.require_only_relu()
    finally:
        for hook in hooks:
            hook.remove()


class _ReLUCalls(TorchFunctionMode):
    """Puts a rule in the place of ReLU, and notes what other activations are called."""

    def __init__(self, rule: Callable[[Tensor], Tensor], method: str) -> None:
        super().__init__()
        self._rule, self._method = rule, method
        self._inside = False
        self._calls = 0
        self._others: set[str] = set()

    def enter_module(self, module: nn.Module, inputs: object) -> None:
        self._inside = True

    def leave_module(self, module: nn.Module, inputs: object, output: object) -> None:
        self._inside = False

    def require_only_relu(self) -> None:
        """Nothing, or the refusal of a network that the rule does not cover."""
        others = ", ".join(sorted(self._others))
        if not self._calls:
            raise self._refusal(f"none{f' (its activations are {others})' if others else ''}")
        if others:
            raise self._refusal(f"activations of other kinds as well ({others})")

    def _refusal(self, found: str) -> UserError:
        return UserError(
            f"Expected `model` to have ReLU modules only, because {self._method} is a rule for "
            f"them and would elsewhere be the plain gradient, but got {found}."
        )

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name.removesuffix("_") in OTHER_ACTIVATIONS:
            self._others.add(name.removesuffix("_"))
        rectifies = name in ("clamp", "clamp_", "clamp_min", "clamp_min_") and _clamps_to_zero(
            *args[1:], **kwargs
        )
        if name not in RELU_CALLS and not rectifies:
            return func(*args, **kwargs)
        if not self._inside:
            raise self._refusal(f"a ReLU called as a function ({name})")
        self._calls += 1
        x = args[0]
        y = self._rule(x)
        # In place as the user's own module would be: others may hold the same tensor.
        return x.copy_(y) if kwargs.get("inplace") or name == "relu_" else y


def _clamps_to_zero(min: Any = None, max: Any = None) -> bool:
    return not isinstance(min, Tensor) and min == 0 and max is None
