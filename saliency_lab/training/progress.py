"""How far a run is: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Literal

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from saliency_lab.models.classifier import Classifier
from saliency_lab.runs.progress import clock_text, rate_text

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_UPDATES = 0.5


class ProgressReport(pl.Callback):
    """Says what is done, how fast and how long it will take.

    Args:
        style: `bar`, `lines` or `off`; `auto` is a bar where stderr is a terminal.
    """

    def __init__(self, style: Literal["auto", "bar", "lines", "off"] = "auto") -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self.style = style
        self._bar: Progress | None = None
        self._began = self._said = 0.0
        self._done = self._total = 0
        self._shown = False

    # One clock for the whole of a fit or test: time left is that of the run, not of the epoch.
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.max_epochs is None:
            raise ValueError("Expected the trainer to have `max_epochs`, but got None")
        batches = int(trainer.num_training_batches)
        self._begin(trainer, batches * (trainer.max_epochs - trainer.current_epoch))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not self._due():
            return
        state = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if isinstance(pl_module, Classifier):
            running = pl_module.running_metrics()
            state += f"  loss {running['loss']:.4f}  accuracy {running['accuracy']:.4f}"
        self._say(state, len(batch.label) * trainer.world_size)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, int(sum(trainer.num_test_batches)))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._due():
            self._say("test", len(batch.label) * trainer.world_size)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def _begin(self, trainer: pl.Trainer, total: int) -> None:
        self._began = self._said = time.monotonic()
        self._done, self._total = 0, total
        self._shown = trainer.is_global_zero and self.style != "off"
        if self._shown and self.style == "bar":
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task("", total=total, state="")

    def _due(self) -> bool:
        self._done += 1
        wait = SECONDS_BETWEEN_UPDATES if self.style == "bar" else SECONDS_BETWEEN_LINES
        return self._shown and time.monotonic() - self._said >= wait

    def _say(self, state: str, images_per_batch: int) -> None:
        self._said = time.monotonic()
        rate = self._done / (self._said - self._began)
        left = (self._total - self._done) / rate
        state += f"  {rate_text(rate * images_per_batch)} images/s  {clock_text(left)} left"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, state=state)
        else:
            log.info("%s  batch %d/%d", state, self._done, self._total)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
