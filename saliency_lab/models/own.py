"""Networks that were trained elsewhere: a module of one's own, or a file that holds a network."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from saliency_lab.config.binding import located, named_parameters
from saliency_lab.errors import UserError
from saliency_lab.models.own_network import Graph, OwnNetwork, Size
from saliency_lab.models.preprocessor import preprocessing
from saliency_lab.models.weights import load_weights_of

_Factory = TypeVar("_Factory", bound=Callable[..., nn.Module])


def without_layers(factory: _Factory) -> _Factory:
    """Marks what gives a network whose layers cannot be looked into, hooked or trained."""
    factory.__dict__["without_layers"] = True
    return factory


def python(
    num_classes: int,
    *,
    target: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: Size | None = None,
    classes: Sequence[str] | None = None,
    load_weights: bool = True,
) -> OwnNetwork:
    """What a function or class of a person's own module gives.

    Args:
        num_classes: passed on where the target names it.
        target: `package.module.build`, importable from where the command runs.
        arguments: further keyword arguments of the target.
        weights: a state dict (.pt, .safetensors) for the module; None: the target loads its own.
        mean, std: a number per channel, for pixels in [0, 1]; None: the network takes them so.
        size: (H, W) that images are resized to; None: as they are.
        classes: names of the logits in their order; None: those of the data.
        load_weights: False where a checkpoint brings them.

    Raises:
        UserError: nothing of that name, no module, or weights that do not fit.
    """
    if target is None:
        raise UserError("Expected `model.target` to be given (my_module.build), but it is missing")
    try:
        build = located(target, "model")
    except UserError as error:
        raise UserError(str(error).replace("model._target_", "model.target")) from error
    given = dict(arguments or {})
    if "num_classes" in named_parameters(build, "model"):
        given.setdefault("num_classes", num_classes)
    try:
        network = build(**given)
    except TypeError as error:
        raise UserError(
            f"Expected `model.target` to take {given}, but {target} says: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"Expected `model.target` to give a torch module, but {target} gives a "
            f"{type(network).__name__}"
        )
    if weights is not None and load_weights:
        load_weights_of(network, Path(weights).expanduser())
    return OwnNetwork(network, mean, std, size)


@without_layers
def torchscript(
    num_classes: int,
    *,
    file: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: Size | None = None,
    classes: Sequence[str] | None = None,
) -> OwnNetwork:
    """A network that `torch.jit.save` has written; see `python` for the rest.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    path = _file(file, "TorchScript")
    try:
        with warnings.catch_warnings():
            # That torch will not develop it further is no news to who has such a file.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            network = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise _unreadable(path, "TorchScript") from error
    # What `torch.jit.freeze` made has no mode before it is given one.
    return OwnNetwork(network.eval(), mean, std, size).eval()


@without_layers
def exported(
    num_classes: int,
    *,
    file: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: Size | None = None,
    classes: Sequence[str] | None = None,
) -> OwnNetwork:
    """A network that `torch.export.save` has written, for batches of any size.

    Raises:
        UserError: there is no such file, it is of another kind, or it takes one batch size only.
    """
    path = _file(file, "torch.export")
    try:
        with _without_warnings():
            program = torch.export.load(str(path))
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError) as error:
        raise _unreadable(path, "torch.export") from error
    shapes = [
        node.meta["val"].shape
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UserError(
            f"Expected `model.file` to take images (B, C, H, W), but '{path}' takes "
            f"{[tuple(shape) for shape in shapes]}"
        )
    if isinstance(shapes[0][0], int):
        raise UserError(
            f"Expected `model.file` to take batches of any size, but '{path}' takes "
            f"{int(shapes[0][0])} images at a time; export it with dynamic_shapes, "
            "({0: torch.export.Dim('batch')},)"
        )
    return OwnNetwork(Graph(program.module()), mean, std, size).eval()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """torch.export logs a traceback for each way in which it cannot read a file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def huggingface(
    num_classes: int,
    *,
    folder: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: Size | None = None,
    classes: Sequence[str] | None = None,
) -> OwnNetwork:
    """An image classifier that `save_pretrained` has written into a folder; nothing is downloaded.

    Mean, std and size are those of its `preprocessor_config.json` unless they are given.

    Raises:
        UserError: transformers is not installed, or the folder holds no image classifier.
    """
    if folder is None or not (Path(folder).expanduser() / "config.json").is_file():
        raise UserError(
            f"Expected `model.folder` to be a folder with a config.json, but got {folder!r}"
        )
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            "Expected transformers to be installed for model=huggingface, but it is not: "
            "pip install transformers"
        ) from error
    place = Path(folder).expanduser()
    try:
        network = transformers.AutoModelForImageClassification.from_pretrained(
            str(place), local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Expected `model.folder` to hold an image classifier, but '{folder}' does not: "
            f"{reason}"
        ) from error
    known = preprocessing(place)
    mean = known.get("image_mean") if mean is None else mean
    std = known.get("image_std") if std is None else std
    return OwnNetwork(network, mean, std, known.get("size") if size is None else size)


def _file(file: str | None, kind: str) -> Path:
    if file is None or not Path(file).expanduser().is_file():
        raise UserError(f"Expected `model.file` to be a {kind} file, but got {file!r}")
    path = Path(file).expanduser()
    # Both kinds are archives; torch says at length what else it has found.
    if not zipfile.is_zipfile(path):
        raise _unreadable(path, kind)
    return path


def _unreadable(path: Path, kind: str) -> UserError:
    return UserError(
        f"Expected `model.file` to be a readable {kind} file, but '{path}' is truncated or of "
        "another kind"
    )
