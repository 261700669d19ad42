"""Weights in files: read safely, and refused with a reason where they do not fit."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from saliency_lab.errors import UserError

# What torch's unpickler meets in a file that is something else altogether.
_UNREADABLE = (
    AttributeError,
    IndexError,
    TypeError,
    AssertionError,
    struct.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    zipfile.BadZipFile,
    safetensors.SafetensorError,
)


def read_file(path: Path, key: str) -> dict[str, Any]:
    """What a weights file or checkpoint holds, without running any code in it.

    Raises:
        UserError: naming the key and the path: the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise UserError(f"Expected `{key}` to be a file, but there is none at '{path}'")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(
            f"Expected `{key}` to be a readable file of weights, but '{path}' is truncated or of "
            f"another kind ({type(error).__name__})"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"Expected `{key}` to hold named tensors, but '{path}' holds a {type(content).__name__}"
        )
    return dict(content)


def load_backbone(backbone: nn.Module, path: Path, *, new_head: bool) -> None:
    """Load a file's weights into a timm model, in place.

    Args:
        backbone: the model; with `new_head` its classifier keeps its own initial weights where
            the file's has another number of classes.
        path: a state dict, a mapping with one under `state_dict` or `model`, or a checkpoint of
            this program.

    Raises:
        UserError: the file's tensors are not those of this architecture.
    """
    state = _state_dict(read_file(path, "model.weights"))
    own = backbone.state_dict()
    if new_head:
        for name in classifier_names(backbone):
            if name in state and state[name].shape != own[name].shape:
                state[name] = own[name]
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or unknown or shapes:
        example = (missing + unknown + shapes)[0]
        raise UserError(
            f"Expected `model.weights` to fit {type(backbone).__name__}, but '{path}' has "
            f"{len(missing)} missing, {len(unknown)} unknown and {len(shapes)} misshapen tensors, "
            f"for example '{example}'"
        )
    backbone.load_state_dict(state)


def _state_dict(content: dict[str, Any]) -> dict[str, Tensor]:
    for name in ("state_dict", "model"):
        if isinstance(content.get(name), Mapping):
            content = dict(content[name])
    prefix = "network.backbone."
    if any(name.startswith(prefix) for name in content):
        content = {n.removeprefix(prefix): t for n, t in content.items() if n.startswith(prefix)}
    content = {name.removeprefix("module."): value for name, value in content.items()}
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def load_weights_of(network: nn.Module, path: Path) -> None:
    """Load a file's weights into any module, in place, every one of them.

    Args:
        network: the module.
        path: a state dict, or a mapping with one under `state_dict` or `model`.

    Raises:
        UserError: the file cannot be read, or its tensors are not those of the module.
    """
    state = _state_dict(read_file(path, "model.weights"))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Expected `model.weights` to fit {type(network).__name__}, but '{path}' does not: "
            f"{reason}"
        ) from error


def classifier_layers(backbone: Any) -> list[nn.Module]:
    """The classification layers of a timm model; distilled transformers have two."""
    layers = backbone.get_classifier()
    return list(layers) if isinstance(layers, tuple | list) else [layers]


def classifier_names(backbone: nn.Module) -> set[str]:
    """Names of the classification layers' tensors in the state dict."""
    layers = classifier_layers(backbone)
    head = {id(tensor) for layer in layers for tensor in layer.state_dict(keep_vars=True).values()}
    everything = backbone.state_dict(keep_vars=True)
    return {name for name, tensor in everything.items() if id(tensor) in head}
