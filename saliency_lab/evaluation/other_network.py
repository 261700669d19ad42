"""A second classifier that a run's maps are compared with."""

from __future__ import annotations

from pathlib import Path

from saliency_lab.errors import UserError
from saliency_lab.evaluation.context import Context
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.runs.directory import read_config


def other_classifier(context: Context, other: str, key: str) -> Classifier:
    """The classifier of another checkpoint, on the CPU, read once in a process.

    Args:
        context: of the run.
        other: the checkpoint, or its training's directory, whose last one is taken.
        key: the setting that named it, for messages.

    Raises:
        UserError: there is no such checkpoint, or its network takes images of another shape.
    """
    path = _checkpoint(other)
    classifier = context.kept((key, str(path)), lambda: load_classifier(path, key))
    wanted = tuple(context.data.input_shape)
    shape = tuple((classifier.facts or {}).get("input_shape", wanted))
    if shape != wanted:
        raise UserError(
            f"Expected `{key}` to take the data's images of {wanted}, but '{path}' takes {shape}."
        )
    return classifier


def training_labels(other: str) -> str | None:
    """`data.training_labels` of the training that a checkpoint lies in; None where nobody knows."""
    data = read_config(_checkpoint(other).parent.parent).get("data")
    said = data.get("training_labels") if isinstance(data, dict) else None
    return None if said is None else str(said)


def _checkpoint(other: str) -> Path:
    path = Path(other).expanduser()
    return path / "checkpoints" / "last.ckpt" if path.is_dir() else path
