"""The form in which a column's network was trained, held against today's experiment.

An experiment's own settings may change after a column was published; its numbers stay those of the
form that it was trained in, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from saliency_lab.config.identity import CAME_LATER
from saliency_lab.config.location import config_directory
from saliency_lab.runs.directory import read_config

_FOLDER = "llorente2023"


@cache
def experiment_model(column: str) -> dict[str, Any]:
    """What a column's experiment sets of its model; empty where it sets nothing."""
    path = config_directory() / "experiment" / _FOLDER / f"{column}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return dict((content or {}).get("model", {}))


def trained_model(column: str, training: Path) -> dict[str, Any]:
    """The same settings as a training was made with them, from its run directory."""
    stored = read_config(training).get("model", {})
    names = [
        name
        for name in experiment_model(column)
        if name in stored or (stored and f"model.{name}" in CAME_LATER)
    ]
    return {name: stored.get(name, CAME_LATER.get(f"model.{name}")) for name in names}


def departures(record: Mapping[str, Any]) -> list[str]:
    """Where a column is not today's experiment: settings that were given, and an older form.

    Args:
        record: of a column; `departures` are the settings that were given for it, `model` the
            settings of its network as it was trained, if they are known.
    """
    given = list(record["departures"])
    said = {word.split("=")[0] for word in given}
    trained = record.get("model", {})
    older = [
        f"model.{name}={_text(trained[name])}"
        for name, value in experiment_model(record["column"]).items()
        if name in trained and trained[name] != value and f"model.{name}" not in said
    ]
    return given + older


def _text(value: object) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
