"""The classifier that a configuration means: of a checkpoint, or a network brought along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.attribution.core.sources import reads_layers, source_name
from saliency_lab.attribution.methods.gad import needs_support
from saliency_lab.config.identity import NO_CHECKPOINT
from saliency_lab.errors import UserError
from saliency_lab.evaluation.context import Method
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.given import given_classifier, has_layers
from saliency_lab.training.components import data_module


def configured_classifier(config: Mapping[str, Any]) -> Classifier:
    """The classifier, on the CPU, in eval mode.

    Raises:
        UserError: a checkpoint that cannot be read, or a network that does not fit the data.
    """
    path = config["classifier"]["path"]
    if path != NO_CHECKPOINT:
        return load_classifier(Path(path))
    data = data_module(config)
    data.download()
    return given_classifier(config["model"], data.class_names, data.input_shape)


def told_checkpoint(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary says of the classifier: its file, the digest and the epochs trained."""
    return {name: config["classifier"].get(name) for name in ("path", "sha256", "epoch")}


def require_usable(config: Mapping[str, Any], method: Method) -> None:
    """Refuse a method that needs more of the classifier than a network from elsewhere may have.

    That is layers to look into, or a checkpoint that support models are kept beside.

    Raises:
        UserError: so it is.
    """
    if needs_support(method.source) and config["classifier"]["path"] == NO_CHECKPOINT:
        raise UserError(
            f"Expected `ckpt` to be a checkpoint with method={method.name}, whose support models "
            f"are kept beside it, but got {NO_CHECKPOINT}"
        )
    if reads_layers(method.source) and not has_layers(config["model"]):
        raise UserError(
            f"Expected `method` to need only logits and input gradients with "
            f"model={config['model']['name']}, whose layers are not accessible, but got "
            f"{source_name(method.source)}"
        )
