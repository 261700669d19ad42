"""Borrowing a model: eval mode and frozen parameters for a while, everything put back after."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

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


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with no parameter that wants a gradient; both undone on leaving.

    The mode of every submodule and the flag of every parameter come back one by one, so a model
    that was half frozen or half in eval mode stays so. A graph that was recorded inside reaches
    the input only, and stays usable outside.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def bare_copy(model: M) -> M:
    """A copy of the model without the hooks of its modules.

    Hooks belong to whoever watches the model itself; they may hold what cannot be copied, and
    would go on reporting from the copy.
    """
    memory: dict[int, object] = {}
    for module in model.modules():
        for name in _HOOKS:
            memory[id(getattr(module, name))] = OrderedDict()
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
