"""Forward passes in which each operation either has a rule, or is linear, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from saliency_lab.errors import UserError

Rule = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Tensor]

# fmt: off
# Linear in the input, or a choice of its entries: the gradient is the right way back.
LINEAR = frozenset({
    "conv1d", "conv2d", "conv3d", "linear", "batch_norm", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "dropout", "dropout2d", "feature_dropout", "alpha_dropout",
    "add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__",
    "__isub__", "rsub", "neg", "__neg__", "cat", "concat", "concatenate", "stack", "chunk",
    "split", "unbind", "flatten", "unflatten", "reshape", "reshape_as", "view", "view_as",
    "unfold", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "expand", "contiguous",
    "clone", "to", "float", "double", "type_as", "__getitem__", "mean", "sum", "pad", "interpolate",
    "pixel_shuffle", "pixel_unshuffle", "roll", "flip",
    "__get__",  # .T, .mT and their kind
})
# Linear only while all factors but one are constants.
PRODUCTS = frozenset({
    "mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply", "matmul", "__matmul__",
    "mm", "bmm", "einsum",
})
# Linear only while the divisor is a constant.
QUOTIENTS = frozenset({
    "div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide",
})
# One number in, one number out.
ELEMENTWISE = frozenset({
    "relu", "gelu", "silu", "hardswish", "hardsigmoid", "mish", "elu", "selu", "celu",
    "leaky_relu", "prelu", "relu6", "hardtanh", "softplus", "tanh", "sigmoid", "clamp",
})
# Those of them with f(0) = 0.
THROUGH_ZERO = (
    "gelu", "silu", "hardswish", "mish", "tanh", "elu", "selu",
    "leaky_relu", "prelu", "relu6", "hardtanh",
)
# fmt: on


class Weighted(torch.autograd.Function):
    """A given value forward, a given multiplier of what arrives backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, multiplier: Tensor) -> Tensor:
        ctx.save_for_backward(multiplier)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor, None, None]:
        (multiplier,) = ctx.saved_tensors
        return arriving[0] * multiplier, None, None


def plain(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The rule of an operation whose gradient is the right way back."""
    return func(*args, **kwargs)


def proportional(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Relevance passes unchanged, that is with the slope f(x)/x; for functions with f(0) = 0."""
    x = args[0].detach()
    value = func(x, *args[1:], **kwargs)
    near_zero = x.abs() < 1e-6
    slope = value / torch.where(near_zero, torch.ones_like(x), x)
    if near_zero.any():
        small = torch.full_like(x, 1e-6)
        slope = torch.where(near_zero, func(small, *args[1:], **kwargs) / small, slope)
    return Weighted.apply(args[0], value, slope)


def remember(tensor: Tensor, layer: Any) -> None:
    """Note what layer a tensor is the output of, for a batch norm that comes next."""
    noted: Any = tensor
    noted.from_layer = layer, tensor._version


def remembered(tensor: Any) -> Any:
    """What was noted, or None; also where the tensor was overwritten since, as by a ReLU in place.

    It is then the same tensor to Python, and no longer what the layer has computed.
    """
    layer, version = getattr(tensor, "from_layer", (None, None))
    return layer if version == tensor._version else None


class PropagationRules(TorchFunctionMode):
    """Rules by operation, for a forward pass inside a `with` block.

    Operations are met where they are called, so it makes no difference whether a module calls
    them, how often a module is used, or whether it works in place.

    Args:
        method: the method's name, for the refusal.
        rules: from an operation's name to its rule.
        linear: what needs no rule; None where everything else passes its gradient.

    Raises:
        UserError: inside the block, at an operation on the input that has no rule and is not
            linear.
    """

    def __init__(
        self,
        method: str,
        rules: Mapping[str, Rule],
        linear: frozenset[str] | None = LINEAR | PRODUCTS | QUOTIENTS,
    ) -> None:
        super().__init__()
        self._method, self._rules, self._unruled = method, rules, linear

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        operands = [t for t in _tensors([*args, *kwargs.values()]) if t.requires_grad]
        strict = self._unruled is not None
        if strict and name == "batch_norm" and operands and kwargs.get("training"):
            raise no_rule("batch_norm with the statistics of the batch", self._method)
        overwrites = name.endswith("_") and not name.endswith("__")
        if operands and (rule := self._rules.get(name.removesuffix("_") if overwrites else name)):
            in_place = kwargs.pop("inplace", False) or overwrites
            if not args:  # the same call, as rules expect it
                args = (kwargs.pop("input"),)
            result = rule(_out_of_place(name) if overwrites else func, args, kwargs)
            # In place as the user's own operation would be: others may hold the same tensor.
            return args[0].copy_(result) if in_place else result
        output = func(*args, **kwargs)
        if not operands or not any(t.requires_grad for t in _tensors([output])):
            return output
        if self._unruled is None or (name in self._unruled and _linear(name, args, operands)):
            return output
        raise no_rule(f"{name} of two activations" if name in PRODUCTS else name, self._method)


def no_rule(found: str, method: str) -> UserError:
    """The refusal of an operation that a method has no rule for."""
    return UserError(
        f"Expected `model` to consist of layers with a rule, but got {found}, "
        f"for which {method} has none."
    )


def _linear(name: str, args: tuple[Any, ...], operands: list[Tensor]) -> bool:
    """Whether an operation is linear in those of its operands that depend on the input."""
    if name in QUOTIENTS:
        return len(args) > 1 and not (isinstance(args[1], Tensor) and args[1].requires_grad)
    return name in LINEAR or (name in PRODUCTS and len(operands) == 1)


def _out_of_place(name: str) -> Callable[..., Any]:
    plain = name.removesuffix("_")
    return getattr(torch, plain, None) or getattr(F, plain)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
