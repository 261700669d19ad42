"""The network that a `model` component describes, tried once before anything relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from saliency_lab.config.binding import built, located, named_parameters
from saliency_lab.errors import UserError

# What the program passes by itself. Only `num_classes` must be taken by a person's own target.
GIVEN = ("num_classes", "in_chans", "image_size", "load_weights")


def built_network(
    component: Mapping[str, Any],
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    load_weights: bool = True,
) -> nn.Module:
    """The network of a component, from images (B, *input_shape) to logits (B, num_classes).

    Any callable that takes `num_classes` and gives a module will do as `_target_`; `in_chans`,
    `image_size` (H, W) and `load_weights` are passed where its signature names them.

    Raises:
        UserError: an argument does not fit the target, what it gives is no module, or the module
            does not take these images or give that many logits.
    """
    target = located(str(component.get("_target_")), "model")
    channels, height, width = input_shape
    offered = {"in_chans": channels, "image_size": (height, width), "load_weights": load_weights}
    named = named_parameters(target, "model")
    given = {name: value for name, value in offered.items() if name in named}
    net = built(component, "model", num_classes=num_classes, **given)
    if not isinstance(net, nn.Module):
        raise UserError(
            f"Expected `model._target_` to give a torch module, but got {type(net).__name__}"
        )
    _try(net, num_classes, input_shape)
    return net


def _try(net: nn.Module, num_classes: int, input_shape: tuple[int, int, int]) -> None:
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    size = "×".join(str(length) for length in input_shape)
    try:
        with torch.no_grad():
            logits = net(torch.zeros(1, *input_shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Expected `model` to take images of {size}, but got: {reason}") from error
    finally:
        for module, training in modes:  # one by one: norms may have been built frozen
            module.training = training
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (1, num_classes):
        raise UserError(
            f"Expected `model` to give logits of shape (1, {num_classes}) for one image of {size}, "
            f"but got {found}"
        )
