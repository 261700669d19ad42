"""Going on from a shorter training: `train trainer.max_epochs=50 continues=DIR`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from saliency_lab.config.identity import conflicts
from saliency_lab.errors import UserError
from saliency_lab.runs.directory import CONFIG, read_config
from saliency_lab.training.checkpoints import newest_checkpoint
from saliency_lab.training.components import schedule

_LENGTH = "trainer.max_epochs"


def continued_checkpoint(config: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint of the run directory that `continues` names; None where it is null.

    The weights that come of it are those of one training from the start, up to the order of sums
    where the number of threads or processes changed, because everything else is required to be
    the same. That is why `continues` is no part of a run's name.

    Raises:
        UserError: it is no training's directory or has no readable checkpoint; it was made from
            another configuration, or is not shorter; or the schedule of the learning rate depends
            on the number of epochs.
    """
    if config["continues"] is None:
        return None
    directory = Path(config["continues"])
    stored = _stored_config(directory)
    others = [found for found in conflicts(config, stored) if found[0] != _LENGTH]
    if others:
        named = ", ".join(f"`{key}` is {old!r} there and {new!r} here" for key, old, new in others)
        raise UserError(
            f"Expected `continues` to be the same training with fewer epochs, but {named} "
            f"('{directory}')"
        )
    epochs, wanted = stored["trainer"]["max_epochs"], config["trainer"]["max_epochs"]
    if epochs >= wanted:
        raise UserError(
            f"Expected `{_LENGTH}` to be more than the {epochs} of the run that `continues` names, "
            f"but got {wanted}"
        )
    if _rates(config, epochs, epochs) != _rates(config, wanted, epochs):
        raise UserError(
            "Expected `scheduler` to give the same rates however long the training is, where "
            f"`continues` is set, but got {config['scheduler']['_target_']}"
        )
    found = newest_checkpoint(directory)
    if found is None:
        raise UserError(f"Expected `continues` to have a checkpoint, but '{directory}' has none")
    return found


def _stored_config(directory: Path) -> dict[str, Any]:
    stored = read_config(directory)
    if stored.get("task") != "train":
        raise UserError(
            f"Expected `continues` to be the directory of a training, but '{directory}' has no "
            f"readable {CONFIG} of one"
        )
    return stored


def _rates(config: Mapping[str, Any], max_epochs: int, count: int) -> list[float]:
    """The learning rates of the first epochs of a training of `max_epochs`, relative to 1."""
    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(config, max_epochs)(optimizer)
    found = []
    for _ in range(count):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found
