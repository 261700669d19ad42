"""Searches: sweepers that choose the next settings by what the last ones have reached."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.types import RunMode

from saliency_lab.errors import UserError
from saliency_lab.runs.directory import read_summary

OBJECTIVE = "val/accuracy"
# What Hydra's sweepers that optimise (Optuna, Ax, Nevergrad) leave in the sweep's directory.
RESULTS = "optimization_results.yaml"


def objective(task: str, directory: Path) -> float | None:
    """What a job hands to Hydra's sweeper: the best validation accuracy of a training, else None.

    Never a number of the test images: what is chosen by them cannot be tested on them.
    """
    best = read_summary(directory).get("best") or {} if task == "train" else {}
    return float(best["value"]) if best.get("monitor") == OBJECTIVE else None


def require_searchable(task: str, settings: Mapping[str, Any], hydra_config: Any) -> None:
    """Refuse a search that has nothing to go by, or that would look for the worst.

    Raises:
        UserError: the task has no objective, no images are kept for validation, or the sweeper
            minimises.
    """
    sweeper = str(hydra_config.runtime.choices.get("hydra/sweeper"))
    if hydra_config.mode != RunMode.MULTIRUN or sweeper == "basic":
        return
    if task != "train":
        raise UserError(f"Expected `hydra/sweeper={sweeper}` with the task train, but got {task}")
    if not settings["data"].get("validation"):
        raise UserError(
            f"Expected `data.validation` to be above 0 with `hydra/sweeper={sweeper}`, which goes "
            "by the validation accuracy, but got 0"
        )
    direction = getattr(hydra_config.sweeper.get("direction"), "name", None)
    if (direction or hydra_config.sweeper.get("direction")) == "minimize":
        raise UserError(
            "Expected `hydra.sweeper.direction` to be maximize, because a training hands over its "
            "validation accuracy, but got minimize"
        )


def kept_results(directory: Path) -> str | None:
    """What a search has found, in words; its file is moved to `searches` beside the runs.

    Args:
        directory: the sweep's own, `OUTPUTS/.sweeps/NAME`.

    Returns:
        None where the sweep was no search.
    """
    found = directory / RESULTS
    if not found.is_file():
        return None
    content = yaml.safe_load(found.read_text(encoding="utf-8"))
    now = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    kept = directory.parent.parent / "searches" / f"{now}.yaml"
    kept.parent.mkdir(parents=True, exist_ok=True)
    found.replace(kept)
    parameters = content.get("best_params") or content.get("best_evaluated_params") or {}
    words = " ".join(f"{key}={value}" for key, value in parameters.items())
    value = content.get("best_value", content.get("best_evaluated_result"))
    return f"best: {words} ({OBJECTIVE} {value}), kept in {kept}"
