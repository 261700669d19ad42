"""The LightningModule around a network: loss, accuracy and what a checkpoint carries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from saliency_lab.data.batch import Batch
from saliency_lab.models.trained_samples import FACT, joined_digests


class Classifier(pl.LightningModule):
    """Trains and tests a network that maps images in [0, 1] to logits.

    Args:
        network: images (B, C, H, W) to logits (B, K).
        num_classes: K.
        seed: with the epoch it seeds dropout and whatever else draws from torch's global stream,
            so that a resumed run draws the same numbers.
        optimizer: from parameters to an optimizer; None where nothing is trained.
        scheduler: from an optimizer to a schedule stepped once per epoch.
        facts: plain containers and tensors that a checkpoint carries, so that it can be loaded by
            itself (the model's configuration, class names, input shape, trained samples).
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        *,
        seed: int = 0,
        optimizer: Callable[[Iterable[Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        # Channels-last convolutions are a quarter faster on CPUs, and on GPUs with mixed precision.
        self.network = network.to(memory_format=torch.channels_last)
        self.seed = seed
        self.facts = dict(facts or {})
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._sums = torch.zeros(3)
        self._rate = 0.0
        self._validation_metrics: dict[str, float] = {}
        self.epoch_metrics: dict[str, float] = {}
        self.epoch_images = 0
        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.mean_loss = MeanMetric()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.network(images.contiguous(memory_format=torch.channels_last))

    def configure_optimizers(self) -> Any:
        if self._optimizer is None or self._scheduler is None:
            raise RuntimeError("This classifier was built for testing, without an optimizer")
        optimizer = self._optimizer(p for p in self.network.parameters() if p.requires_grad)
        schedule = {"scheduler": self._scheduler(optimizer), "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_epoch_start(self) -> None:
        self._sums = torch.zeros(3, device=self.device)
        # The schedule steps before the epoch's end: the rate that this epoch trains with.
        self._rate = self.trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Not at the epoch's start: the loader's iterator draws from the same stream, before that
        # in a resumed run's first epoch and after it in all others.
        if batch_idx == 0:
            torch.manual_seed(_mixed(self.seed, self.current_epoch, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch.image)
        loss = F.cross_entropy(logits, batch.label)
        count = len(batch.label)
        with torch.no_grad():
            correct = (logits.argmax(1) == batch.label).sum()
            self._sums += torch.stack([loss.detach() * count, correct, loss.new_tensor(count)])
        if self.trainer.world_size == 1:
            return loss
        # Ranks of an uneven batch hold different numbers of images; DDP averages their gradients
        # with equal weight, so each loss carries its share of the whole batch.
        total = torch.tensor(float(count), device=self.device)
        torch.distributed.all_reduce(total)
        return loss * (count * self.trainer.world_size / float(total))

    def running_metrics(self) -> dict[str, float]:
        """This process's loss and accuracy since the epoch's start; waits for the device."""
        loss, correct, count = self._sums.tolist()
        return {"loss": loss / max(count, 1), "accuracy": correct / max(count, 1)}

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(self._sums)
        loss, correct, count = self._sums.tolist()
        self.epoch_images = int(count)
        self.epoch_metrics = {
            "train/loss": loss / count,
            "train/accuracy": correct / count,
            "lr": self._rate,
            **self._validation_metrics,
        }
        # On every process, which all have the same numbers: what monitors them decides alike.
        self.log_dict(self.epoch_metrics)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._count(batch)

    def _count(self, batch: Batch) -> Tensor:
        logits = self(batch.image)
        self.confusion.update(logits, batch.label)
        self.mean_loss.update(F.cross_entropy(logits, batch.label), weight=len(batch.label))
        return logits

    def on_validation_epoch_end(self) -> None:
        tested = self.tested()
        self._validation_metrics = {
            "val/loss": tested["loss"],
            "val/accuracy": tested["correct"] / tested["images"],
        }
        self.reset_counts()

    def reset_counts(self) -> None:
        """Forget what was counted while testing."""
        self.confusion.reset()
        self.mean_loss.reset()

    def tested(self) -> dict[str, Any]:
        """Counts over all processes since the last reset: loss, images, correct, confusion.

        `confusion[i][j]` is the number of images of class i that were taken for class j.
        """
        confusion = self.confusion.compute()
        return {
            "loss": float(self.mean_loss.compute()),
            "images": int(confusion.sum()),
            "correct": int(confusion.diagonal().sum()),
            "confusion": confusion.tolist(),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["facts"] = self.facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A training that goes on with other images has been trained on the earlier ones, too.
        before = checkpoint.get("facts", {}).get(FACT)
        if before is not None and FACT in self.facts:
            self.facts[FACT] = joined_digests(self.facts[FACT], before)


def _mixed(*numbers: int) -> int:
    """One seed from several numbers of any size; other numbers give an unrelated one."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
