"""Ending a training that gets no better."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import pytorch_lightning as pl
from annotated_types import Ge, Gt
from pytorch_lightning.callbacks import early_stopping as lightning

from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError

log = logging.getLogger(__name__)

Monitor = Literal["auto", "val/accuracy", "val/loss", "train/loss", "train/accuracy"]


class EarlyStopping(lightning.EarlyStopping):
    """Lightning's, on the metrics of this program, and exact where a training is resumed.

    Checkpoints are written as without it: `last` is the epoch that it stopped after, `best` the
    best one. A training that was killed after it had stopped trains no further epoch.

    Args:
        monitor: accuracies are to rise, losses to fall; `auto` is the metric that decides `best`:
            the validation accuracy where a share is held out, else the training loss.
        patience: epochs without improvement after which the training stops.
        min_delta: what counts as an improvement must be greater than this.
    """

    def __init__(
        self,
        monitor: Monitor = "auto",
        patience: Annotated[int, Gt(0)] = 5,
        min_delta: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        mode = "max" if monitor.endswith("accuracy") else "min"
        super().__init__(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=True)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        held_out = isinstance(data, ImageData) and data.validation > 0
        if self.monitor == "auto":
            monitor: Monitor = "val/accuracy" if held_out else "train/loss"
            # Lightning fixes the direction when it is made, and the data are known only now.
            EarlyStopping.__init__(self, monitor, self.patience, abs(self.min_delta))
        if self.monitor.startswith("val/") and not held_out:
            raise UserError(
                f"Expected `data.validation` to be above 0 for early stopping by {self.monitor}, "
                "but got 0.0"
            )
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stopping_reason is not lightning.EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self.stopping_reason is not lightning.EarlyStoppingReason.NOT_STOPPED:
            log.info(
                "stopped early after epoch %d: %s has not improved on %.4g for %d epochs",
                trainer.current_epoch + 1,
                self.monitor,
                float(self.best_score),
                self.wait_count,
            )
