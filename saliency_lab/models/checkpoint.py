"""A trained classifier from its checkpoint alone."""

from __future__ import annotations

from pathlib import Path

from saliency_lab.errors import UserError
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.construction import built_network
from saliency_lab.models.weights import read_file


def load_classifier(path: Path, key: str = "ckpt") -> Classifier:
    """The classifier of a checkpoint of this program, on the CPU, in eval mode.

    Its network is rebuilt as it was trained (head, normalisation, frozen parts) from what the
    checkpoint itself carries; nothing is downloaded and no other file is read.

    Args:
        path: `last.ckpt`, `best.ckpt` or a copy of one.
        key: the configuration key that named the file, for messages.

    Raises:
        UserError: there is no such file, it is truncated, or it is none of this program's.
    """
    content = read_file(path, key)
    facts, state = content.get("facts"), content.get("state_dict", {})
    if not isinstance(facts, dict) or not {"model", "classes", "input_shape"} <= facts.keys():
        raise UserError(
            f"Expected `{key}` to be a checkpoint of this program's train task, but '{path}' "
            "carries no description of its model"
        )
    classes = len(facts["classes"])
    channels, height, width = facts["input_shape"]
    net = built_network(facts["model"], classes, (channels, height, width), load_weights=False)
    classifier = Classifier(net, classes, facts=facts)
    try:
        classifier.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Expected `{key}` to fit the model that it describes, but '{path}' does not: {reason}"
        ) from error
    return classifier.eval()
