"""Train a classifier: `python -m saliency_lab train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.report.drawing.terminal import print_table
from saliency_lab.runs.directory import is_finished, read_summary
from saliency_lab.runs.processes import process_rank


def is_done(config: Mapping[str, Any], directory: Path) -> bool:
    """Whether the directory holds all that the configuration asks for."""
    return is_finished(directory) and not config["overwrite"]


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Train, or go on training, the classifier that the configuration describes.

    A finished run returns at once; an interrupted one goes on from its last finished epoch.

    Raises:
        UserError: the configuration, the data or the weights are wrong; nothing was lost.
    """
    if is_done(config, directory):
        if config["data"].get("root") is not None:
            from saliency_lab.training.components import tell_changed_data

            tell_changed_data(config, directory)
        say_done(config, directory)
        return
    # torch takes seconds to import, and a finished run has no use for it.
    from saliency_lab.tasks.fitting import train_classifier

    train_classifier(config, directory)
    if process_rank() == 0:
        _show(read_summary(directory), directory)


def say_done(config: Mapping[str, Any], directory: Path) -> None:
    """Tell the user that there is nothing to do, and what came of it then."""
    if process_rank() == 0:
        print(f"already finished; pass overwrite=true to rerun: {directory}")
        _show(read_summary(directory), directory)


def _show(summary: Mapping[str, Any], directory: Path) -> None:
    test = summary["test"]
    interval = f"[{test['low']:.4f}, {test['high']:.4f}]"
    row = [
        summary["data"]["name"],
        summary["model"]["name"],
        summary["seed"],
        summary["epochs"],
        summary["train"]["accuracy"],
        test["accuracy"],
        interval,
        test["images"],
    ]
    columns = [
        "data",
        "model",
        "seed",
        "epochs",
        "train accuracy",
        "test accuracy",
        "95 %",
        "images",
    ]
    print_table("Trained", columns, [row], wrote=directory)
