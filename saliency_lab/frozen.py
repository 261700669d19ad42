"""Borrowing a model: eval mode and frozen parameters for a while, everything put back after."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from saliency_lab.errors import UserError

M = TypeVar("M", bound=nn.Module)

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
# PyTorch's own that make a layer's weight of its parameters before every forward.
_COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with no parameter that wants a gradient; both undone on leaving.

    The mode of every submodule and the flag of every parameter come back one by one, so a model
    that was half frozen or half in eval mode stays so. Modules with a `train` of their own, such
    as layers that merge weights for inference, are told by it. A graph that was recorded inside
    reaches the input only, and stays usable outside. An enclosing `torch.autocast` has no say
    inside.

    Raises:
        UserError: part of the model is an exported program as PyTorch gives it, which has one mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        _evaluate(model)
        for parameter in wanting:
            parameter.requires_grad_(False)
        with without_autocast(), right_norm_gradients(model):
            yield model
    finally:
        for module, training in modes:
            if type(module).train is not nn.Module.train and module.training != training:
                module.train(training)
        for parameter in wanting:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def _evaluate(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError as error:
        raise UserError(
            "Expected `model` to be a module that can be put into eval mode, but got an exported "
            "program, which keeps the mode that it was exported in; give it as "
            "saliency_lab.models.own_network.Graph(program)."
        ) from error


@contextmanager
def without_autocast() -> Iterator[None]:
    """Computing in the dtypes that are there, whatever `torch.autocast` there is around."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def right_norm_gradients(model: nn.Module) -> Iterator[None]:
    """Graphs recorded inside get right gradients behind batch and instance norms on the CPU."""
    first = next(chain(model.parameters(), model.buffers()), None)
    if torch.is_grad_enabled() and (first is None or first.device.type == "cpu"):
        with _NormGradients():
            yield
    else:
        yield


class _NormGradients(TorchFunctionMode):
    """Gradients arrive at norms laid out in memory as what the norm gave.

    PyTorch on the CPU (seen in 2.15) reads others in the wrong order where an axis has length 1,
    such as those of tokens (1, N, C) made of a map (1, C, H, W). Instance norms are batch norms
    of one image to it.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        # An exported network calls "batch_norm.default".
        name = getattr(func, "__name__", "").partition(".")[0]
        if name in ("batch_norm", "instance_norm") and output.requires_grad:
            strides = output.stride()  # the output itself would be kept by its own hook
            output.register_hook(lambda gradient: _laid_out(gradient, strides))
        return output


def _laid_out(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    if gradient.stride() == strides:
        return gradient
    laid = torch.empty_strided(
        gradient.shape, strides, dtype=gradient.dtype, device=gradient.device
    )
    return laid.copy_(gradient)


def bare_copy(model: M, *, computing: bool = True) -> M:
    """A copy of the model without the hooks of those who watch its modules.

    Such hooks belong to the model itself; they may hold what cannot be copied, and would go on
    reporting from the copy.

    Args:
        model: left unchanged.
        computing: keep the hooks by which `torch.nn.utils.weight_norm`, `spectral_norm` and `prune`
            compute a weight. Without them it stays as the last forward left it, whatever becomes
            of the parameters that it is made of.
    """
    memory: dict[int, object] = {}
    for module in model.modules():
        for name in _HOOKS:
            memory[id(getattr(module, name))] = OrderedDict()
        if computing:
            # The hooks themselves hold no tensor of the module: they are given it at every call.
            memory[id(module._forward_pre_hooks)] = OrderedDict(
                (key, hook)
                for key, hook in module._forward_pre_hooks.items()
                if isinstance(hook, _COMPUTING)
            )
        for value in (*vars(module).values(), *module._buffers.values()):
            # A computed weight has a graph behind it, with which it cannot be copied.
            if isinstance(value, Tensor) and not value.is_leaf:
                memory[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memory)


def model_place(model: nn.Module, images: Tensor) -> tuple[torch.device, torch.dtype]:
    """Device and floating dtype that the model computes in; those of `images` if it has none."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return images.device, images.dtype


def placed_images(model: nn.Module, images: Tensor) -> Tensor:
    """The images (B, C, H, W) on the model's device and in its dtype.

    Raises:
        UserError: they are not a floating tensor of four dimensions.
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise UserError(
            "Expected `images` to be a floating tensor of shape (B, C, H, W) with pixels in "
            f"[0, 1], but got {tuple(images.shape)} of {images.dtype}."
        )
    device, dtype = model_place(model, images)
    return images.to(device=device, dtype=dtype)


def unshared(placed: Tensor, images: Tensor) -> Tensor:
    """What was made of the images for a network that may work in place, in memory of its own.

    A conversion that had nothing to do gives the images themselves; those are copied.
    """
    return placed.clone() if placed.data_ptr() == images.data_ptr() else placed


def checked_logits(output: object, batch: int, *, several: bool = False) -> Tensor:
    """The logits (B, K) of a model's answer: itself, or what it holds under the name `logits`.

    Args:
        output: what the model returned.
        batch: B.
        several: a multiple of B rows will do, as where blocks are made to answer for themselves.

    Raises:
        UserError: neither is a tensor (B, K).
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits", output)
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor) and logits.dim() == 2:
        rows = len(logits)
        if rows == batch or (several and rows > batch > 0 and rows % batch == 0):
            return logits
    got = str(tuple(logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor):
        if isinstance(logits, Mapping):
            got += f" of {', '.join(str(key) for key in logits)}"
        got += "; put it into a module whose forward returns the logits alone"
    raise UserError(f"Expected `model` to return logits of shape ({batch}, K), but got {got}.")


def require_classes(logits: Tensor) -> None:
    """Nothing, or a refusal of logits (B, 1), where predictions or probabilities are read of them.

    The highest of one logit and its softmax are the same whatever the image: every curve would be
    perfect and say nothing.

    Raises:
        UserError: there are fewer than two classes.
    """
    if logits.shape[1] < 2:
        raise UserError(
            "Expected `model` to return logits of at least two classes, because the predicted "
            f"class and its softmax never change otherwise, but got {logits.shape[1]}; give it two "
            "logits, for instance (0, s) for a score s."
        )


def intact_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K) of the images, detached, in eval mode; one forward, nothing recorded."""
    with torch.inference_mode(False), torch.no_grad(), frozen(model):
        return checked_logits(model(placed_images(model, images).clone()), len(images))


def entered_modules(model: nn.Module, images: Tensor) -> list[str]:
    """Names of the modules as a forward of the first image enters them, each as often as it does.

    The model itself is named "".
    """
    names: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: names.append(name))
        for name, module in model.named_modules()
    ]
    try:
        intact_logits(model, images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return names
