"""The curves of a training on W&B, on an epoch axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from saliency_lab.tracking.tracking import Record

_AXIS = "epoch"


class EpochLogger(Logger):
    """Lightning's logged values and the rows of `metrics.csv`, one point per epoch from 1.

    Lightning's own W&B logger puts everything on an axis of optimizer steps, begins a resumed
    training's curves in their middle, and ends the training when wandb fails.

    Args:
        record: the wandb run.
        directory: the run directory, whose metrics.csv is written before Lightning logs an epoch.
    """

    def __init__(self, record: Record, directory: Path) -> None:
        super().__init__()
        self._record = record
        self._history = directory / "metrics.csv"
        self._epochs = 0
        self._known: set[str] = set()

    @property
    def name(self) -> str | None:
        return None

    @property
    def version(self) -> str | None:
        return None

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the whole configuration is in the record from its beginning."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand on what Lightning logs, and every finished epoch that was not handed on yet."""
        if self._record.lost:
            return
        logged = {name: value for name, value in metrics.items() if name != _AXIS}
        if step is not None:
            logged["trainer/global_step"] = step
        rows = self._new_epochs()
        with self._record.kept():
            for row in rows[:-1]:
                self._hand_on(row)
            self._hand_on({**(rows[-1] if rows else {}), **logged})

    def _new_epochs(self) -> list[dict[str, Any]]:
        if not self._history.is_file():
            return []
        rows = pd.read_csv(self._history).to_dict("records")
        found = [{str(k): v for k, v in row.items()} for row in rows if row[_AXIS] > self._epochs]
        if found:
            self._epochs = int(found[-1][_AXIS])
        return found

    def _hand_on(self, row: Mapping[str, Any]) -> None:
        if _AXIS in row:
            for name in row.keys() - self._known - {_AXIS}:
                self._record.run.define_metric(name, step_metric=_AXIS)
                self._known.add(name)
        self._record.run.log(dict(row))
