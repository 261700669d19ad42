"""A network that no training of this program has made, as the classifier of an evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.config.content import component_source
from saliency_lab.config.identity import NO_CHECKPOINT
from saliency_lab.errors import UserError

_NAMED_BY_MODEL = ("target", "file", "folder", "weights")


def brought_along(model: Mapping[str, Any]) -> dict[str, Any]:
    """The classifier that the model component itself brings, with no training of this program.

    Its digest is that of its settings, of the text of its module and of the files it names.

    Returns:
        path (`NO_CHECKPOINT`), sha256, directory (None), model (the component), data (None).

    Raises:
        UserError: the component names something that is not there, or brings no weights.
    """
    component = dict(model)
    # A network of timm has a head for these classes that nothing has trained.
    target = str(component.get("_target_"))
    untrained = target.startswith("saliency_lab.models.network.")
    for key in _NAMED_BY_MODEL if target.startswith("saliency_lab.models.own.") else ():
        _require_there(component, key)
    outside = None if untrained else component_source(component)
    if outside is None:
        raise UserError(
            f"Expected `model` to be a network that is trained already with ckpt={NO_CHECKPOINT} "
            "(python, torchscript, exported, huggingface, or a target of your own), but got "
            f"{component.get('name')}"
        )
    # The content of a file counts, not where it lies; the name is in the run's path.
    settings = {k: v for k, v in component.items() if k != "name" and not _is_content(k, v)}
    told = json.dumps([settings, outside], sort_keys=True, default=str)
    return {
        "path": NO_CHECKPOINT,
        "sha256": hashlib.sha256(told.encode()).hexdigest(),
        "directory": None,
        "model": component,
        "data": None,
    }


def _is_content(key: str, value: object) -> bool:
    """Whether a setting names a file or folder whose content is in the digest already."""
    if not isinstance(value, str):
        return False
    path = Path(value).expanduser()
    return (key in ("weights", "file") and path.is_file()) or (key == "folder" and path.is_dir())


def _require_there(component: Mapping[str, Any], key: str) -> None:
    """Refuse what a model component says it is made of and what is not there."""
    if key not in component:
        return
    value = component[key]
    if value is None and key != "weights":
        raise UserError(f"Expected `model.{key}` to be given, but it is null")
    if value is not None and key != "target" and not Path(str(value)).expanduser().exists():
        kind = "folder" if key == "folder" else "file"
        raise UserError(f"Expected `model.{key}` to be a {kind}, but there is none at '{value}'")
    if key == "target" and component_source({"target": value}) is None:
        raise UserError(
            f"Expected `model.target` to name something outside this program that can be imported "
            f"(my_module.build), but got '{value}'"
        )
