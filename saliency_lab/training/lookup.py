"""The checkpoint that an evaluation or explanation is about."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.errors import UserError
from saliency_lab.runs.directory import is_finished
from saliency_lab.training.checkpoints import newest_checkpoint

log = logging.getLogger(__name__)

# Overrides of `evaluate` and `explain` that say nothing about the training.
_NOT_TRAINING = (
    "method",
    "view",
    "evaluator",
    "engine",
    "ckpt",
    "images",
    "target",
    "per_class",
    "hydra",
    "overwrite",
    "trainer.devices",
    "trainer=",
    "-",
    "logger",
    "data.limit",
)


def trained_checkpoint(config: Mapping[str, Any]) -> Path:
    """The file, or a training's newest, that `ckpt` names; else that of the matching training run.

    Raises:
        UserError: there is none; the message says which command trains it.
    """
    if config["ckpt"] is not None:
        path = Path(config["ckpt"])
        named = path if path.is_file() else newest_checkpoint(path)
        if named is None:
            raise UserError(
                "Expected `ckpt` to be a checkpoint or the directory of a training, but there is "
                f"none at '{path}'"
            )
        return named
    directories = [Path(directory) for directory in config["training"]]
    for directory in directories:
        found = newest_checkpoint(directory) if is_finished(directory) else None
        if found is not None:
            log.info("classifier: %s", found)
            return found
    unfinished = [d for d in directories if newest_checkpoint(d) is not None]
    if unfinished:
        raise UserError(
            f"Expected a finished training run, but the one in {unfinished[0]} is not; "
            f"go on with: {_training_command()}"
        )
    raise UserError(
        f"Expected a trained classifier in {directories[-1]}, but there is none; "
        f"train it: {_training_command()} (or name a checkpoint: ckpt=FILE)"
    )


def _training_command() -> str:
    words = [word for word in sys.argv[2:] if not word.startswith(_NOT_TRAINING)]
    return "python -m saliency_lab train " + " ".join(shlex.quote(word) for word in words)
