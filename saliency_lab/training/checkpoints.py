"""Checkpoints that survive a kill at any moment, and the history that goes with them."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from saliency_lab.errors import UserError
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.weights import read_file
from saliency_lab.runs.files import atomic_path

log = logging.getLogger(__name__)


class Checkpoints(Checkpoint):
    """Keeps `last`, `previous` and `best` after every epoch, and `metrics.csv` beside them.

    The history lies in the checkpoint itself, so that a resumed run's metrics are those of a run
    that was never killed. `best` has the highest validation accuracy where a validation share is
    held out, and the lowest training loss elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "checkpoints"
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, Classifier):
            raise TypeError(f"Expected a Classifier, but got {type(pl_module).__name__}")
        seconds = time.monotonic() - self._started
        images = pl_module.epoch_images
        self.history.append(
            {
                "epoch": trainer.current_epoch + 1,
                **pl_module.epoch_metrics,
                "seconds": round(seconds, 3),
                # Digits, not decimals: slow work takes many seconds for one image.
                "images_per_second": float(f"{images / seconds:.4g}"),
            }
        )
        if not all(bool(weights.isfinite().all()) for weights in pl_module.parameters()):
            raise UserError(
                f"Expected the training to keep finite weights, but in epoch "
                f"{trainer.current_epoch + 1} some became NaN or infinite; lower `optimizer.lr`"
            )
        improved = self._improved()
        self._save(trainer)
        log.info("  ".join(f"{name} {value:.4g}" for name, value in self.history[-1].items()))
        if trainer.is_global_zero:
            self._publish(improved)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A kill may have come between a checkpoint and what is made from it.
        if self.history and trainer.is_global_zero:
            self._publish(improved=self.best["epoch"] == self.history[-1]["epoch"])

    def take_over(self, checkpoint: Path) -> None:
        """Make another training's checkpoint, and the best one beside it, this training's own."""
        self.directory.mkdir(parents=True, exist_ok=True)
        best = checkpoint.with_name("best.ckpt")
        if best.is_file():
            _link(best, self.directory / "best.ckpt")
        _link(checkpoint, self.directory / "last.ckpt")

    def go_on_from(self, checkpoint: Path) -> None:
        """Put the checkpoint that a training resumes from in the place of a newer, unreadable one.

        Otherwise that one would become `best` and `previous`.
        """
        last = self.directory / "last.ckpt"
        if checkpoint.parent == self.directory and checkpoint != last:
            _link(checkpoint, last)

    def _publish(self, improved: bool) -> None:
        if improved:
            _link(self.directory / "last.ckpt", self.directory / "best.ckpt")
        with atomic_path(self.directory.parent / "metrics.csv") as path:
            pd.DataFrame(self.history).to_csv(path, index=False)

    def _improved(self) -> bool:
        newest = self.history[-1]
        monitor = "val/accuracy" if "val/accuracy" in newest else "train/loss"
        value = newest[monitor]
        before = self.best.get("value", math.nan)
        # Also after an epoch whose loss was NaN: nothing is better than that.
        better = math.isnan(before) or (value > before if "accuracy" in monitor else value < before)
        if better:
            self.best = {"epoch": newest["epoch"], "monitor": monitor, "value": value}
        return better

    def _save(self, trainer: pl.Trainer) -> None:
        last = self.directory / "last.ckpt"
        if not trainer.is_global_zero:
            # Every rank takes part in a checkpoint; rank 0 alone writes it.
            trainer.save_checkpoint(last, weights_only=False)
            return
        with atomic_path(last) as path:
            trainer.save_checkpoint(path, weights_only=False)
            if last.is_file():
                _link(last, self.directory / "previous.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.best = state_dict["history"], state_dict["best"]


def newest_checkpoint(directory: Path) -> Path | None:
    """The last checkpoint of a run directory that can be read, or None.

    A truncated one is named and passed over in favour of the one before it.
    """
    for name in ("last.ckpt", "previous.ckpt"):
        path = directory / "checkpoints" / name
        if not path.is_file():
            continue
        try:
            read_file(path, "checkpoint")
        except UserError as error:
            log.warning("%s; not used", error)
            continue
        return path
    return None


def _link(source: Path, target: Path) -> None:
    """Another name for a file that is never written to again, without a second copy of it."""
    with atomic_path(target) as path:
        try:
            os.link(source, path)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, path)
