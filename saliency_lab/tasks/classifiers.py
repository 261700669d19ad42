"""The classifier that a configuration means: of a checkpoint, or a network brought along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.attribution.core.sources import reads_layers, source_name
from saliency_lab.errors import UserError
from saliency_lab.evaluation.context import Method
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.given import given_classifier, has_layers
from saliency_lab.training.components import data_module
from saliency_lab.training.lookup import NO_CHECKPOINT


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


def require_layers(config: Mapping[str, Any], method: Method) -> None:
    """Refuse a method that looks into layers, for a network that has none to look into.

    Raises:
        UserError: so it is.
    """
    if reads_layers(method.source) and not has_layers(config["model"]):
        raise UserError(
            f"Expected `method` to ask for logits and input gradients only with "
            f"model={config['model']['name']}, whose layers cannot be looked into, but got "
            f"{source_name(method.source)}"
        )
