"""Networks that were trained elsewhere: a module of one's own, or a file that holds a network."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from saliency_lab.config.binding import located, named_parameters
from saliency_lab.errors import UserError
from saliency_lab.frozen import checked_logits
from saliency_lab.inputs import Normalize, normalized
from saliency_lab.models.preprocessor import preprocessing
from saliency_lab.models.weights import load_weights_of

Size = tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]]
_Factory = TypeVar("_Factory", bound=Callable[..., nn.Module])


class OwnNetwork(nn.Module):
    """A network behind its own preprocessing, so that images of the data set go in as they are.

    Input: images (B, C, H, W) in [0, 1], of any size. They are resized (bilinear with
    antialiasing) to `size`, normalised as (x − mean) / std, and given to `network`, whose answer
    are logits (B, K) or an object that holds them as `logits`. Gradients are with respect to the
    images as they go in, so maps have the data set's size.

    In training mode, which it begins in, parts that `network` came with in eval mode stay in it:
    whoever made it froze them. One that came in eval mode as a whole was made ready to be asked,
    as `from_pretrained` leaves it; of that one, parts whose weights are all fixed stay so.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        size: Size | None,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise UserError("Expected `model.mean` and `model.std` both to be given, or neither")
        self.normalize: nn.Module = nn.Identity()
        if mean is not None and std is not None:
            self.normalize = _normalize(network, mean, std)
        self.network = network
        self.size = None if size is None else (size[0], size[1])
        self._kept_in_eval = _frozen_parts(network)
        # Lightning's fit leaves every module's mode as it finds it.
        self.train()

    def train(self, mode: bool = True) -> OwnNetwork:
        """Training mode, except for parts that were frozen when the network came."""
        super().train(mode)
        if mode:
            for name, module in self.network.named_modules():
                if name in self._kept_in_eval:
                    module.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return _logits(self.network(self.normalize(images)), images)


def _frozen_parts(network: nn.Module) -> frozenset[str]:
    """Names of the modules that training leaves in eval mode (see `OwnNetwork`)."""
    # By name: synchronised batch norms take the place of others.
    modules = dict(network.named_modules())
    evaluating = {name for name, module in modules.items() if not module.training}
    if len(evaluating) < len(modules):
        return frozenset(evaluating)
    # With their dropout, which has no weights of its own.
    fixed = {part for module in modules.values() if _is_fixed(module) for part in module.modules()}
    return frozenset(name for name, module in modules.items() if module in fixed)


def _is_fixed(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


# A leaf of tracing, so that a folded copy of the network can be made.
@torch.fx.wrap
def _logits(answer: object, images: Tensor) -> Tensor:
    # LeGrad has every block answer; whoever asked knows how many rows there should be.
    return checked_logits(answer, len(images), several=True)


class Graph(nn.Module):
    """An exported program: it has the mode that it was exported in, and no other."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.program(images)
        return answer

    def train(self, mode: bool = True) -> Graph:
        self.training = mode
        return self


def is_one_program(model: nn.Module) -> bool:
    """Whether part of a model is an exported program or TorchScript.

    Its modules have neither hooks nor initialisers, whatever names its weights still go by.
    """
    return any(isinstance(one, (Graph, torch.jit.ScriptModule)) for one in model.modules())


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


def _normalize(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    layer = normalized(network, mean, std).get_submodule("normalize")
    if not isinstance(layer, Normalize):
        raise TypeError(f"Expected a Normalize, but got {type(layer).__name__}")
    return layer


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
