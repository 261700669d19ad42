"""`python -m benchmarks.training --data DIR`: training against a bare PyTorch loop.

Both sides train the same model on the same batches in the same order, one batch of ours, then the
same batch of theirs, so that a busy moment of the machine hits both. The bare loop has all images
as float tensors in memory and does nothing but index, forward, backward and step. Ours is the
train task as it is: batches gathered from the mapped uint8 file, Lightning, metrics, progress,
checkpoints with their fsync. Whatever it does outside of batches counts, too.

Before anything is timed, and again at the end, the weights of both sides must be bitwise equal.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from saliency_lab.data.batch import Batch
from saliency_lab.data.cifar10 import Cifar10
from saliency_lab.data.module import ImageData
from saliency_lab.data.shapes import Shapes
from saliency_lab.tasks.checkpoints import Checkpoints
from saliency_lab.tasks.components import classifier, lightning_trainer

TARGET = 1.05
CHECKED_IMAGES = 1000


class Seconds(NamedTuple):
    """Wall-clock and processor seconds."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        """Both clocks."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.processor - other.processor)

    def plus(self, other: Seconds) -> Seconds:
        """The sum of both."""
        return Seconds(self.wall + other.wall, self.processor + other.processor)


class BareLoop(pl.Callback):
    """Does after each batch of ours the same batch in a bare loop, and keeps the two times."""

    def __init__(self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor):
        self.network = network
        self.images, self.labels = images, labels
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
        self.theirs = Seconds(0.0, 0.0)
        self.loss = torch.zeros(())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        rows = batch.index
        began = Seconds.now()
        logits = self.network(self.images[rows].contiguous(memory_format=torch.channels_last))
        self.loss = F.cross_entropy(logits, self.labels[rows])
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()
        self.theirs = self.theirs.plus(Seconds.now() - began)


def main() -> int:
    """Measure each model, print one line for each; 1 where a ratio is above the target."""
    settings = _settings()
    torch.set_num_threads(settings.threads)
    print(f"{settings.threads} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    worst = 0.0
    for name in settings.models:
        _side_by_side(name, _data(settings, CHECKED_IMAGES), epochs=1)
        data = _data(settings, settings.images)
        ours, theirs = _side_by_side(name, data, settings.epochs)
        ratio = ours.processor / theirs.processor
        worst = max(worst, ratio)
        print(
            f"{name:10} {len(data.split('train')):,} images, an epoch: "
            f"ours {ours.wall / settings.epochs:.2f} s, "
            f"bare loop {theirs.wall / settings.epochs:.2f} s, "
            f"ratio {ours.wall / theirs.wall:.3f} (processor time {ratio:.3f}); same weights",
            flush=True,
        )
    return int(worst > TARGET)


def _side_by_side(name: str, data: ImageData, epochs: int) -> tuple[Seconds, Seconds]:
    """Seconds of ours and of the bare loop for `epochs` epochs.

    Raises:
        RuntimeError: the two ended with different weights, so the times compare nothing.
    """
    with tempfile.TemporaryDirectory() as place:
        config = _config(name, epochs)
        torch.manual_seed(0)
        model = classifier(config, data)
        split = data.split("train")
        images = torch.from_numpy(split.pixels(range(len(split)))).to(torch.float32).div_(255)
        images = images.contiguous(memory_format=torch.channels_last)
        bare = BareLoop(
            copy.deepcopy(model.network).train(), images, torch.from_numpy(split.labels)
        )
        callbacks = [bare, Checkpoints(Path(place))]
        trainer = lightning_trainer(config, Path(place), callbacks)
        clock = _Clock()
        trainer.callbacks.append(clock)
        trainer.fit(model, datamodule=data)
    pairs = zip(model.network.state_dict().items(), bare.network.state_dict().values(), strict=True)
    for (key, ours), theirs in pairs:
        if not torch.equal(ours, theirs):
            raise RuntimeError(f"{name}: the two sides have different weights in {key}")
    return clock.total - bare.theirs, bare.theirs


class _Clock(pl.Callback):
    """From the start of the first epoch to after the end of the last, checkpoint included."""

    def __init__(self) -> None:
        self.began = self.total = Seconds(0.0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = Seconds.now()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.total = Seconds.now() - self.began


def _config(name: str, epochs: int) -> dict[str, Any]:
    return {
        "seed": 0,
        "model": {"_target_": "saliency_lab.models.network.network", "name": name},
        "optimizer": {"_target_": "saliency_lab.models.optimizers.adamw"},
        "scheduler": {"_target_": "saliency_lab.models.optimizers.constant"},
        "trainer": {
            "_target_": "saliency_lab.tasks.trainer.trainer",
            "accelerator": "auto",
            "max_epochs": epochs,
            "progress": "lines",
        },
    }


def _data(settings: argparse.Namespace, images: int) -> ImageData:
    data: ImageData
    if settings.data is None:
        data = Shapes(train_images=images)
    else:
        data = Cifar10(name="cifar10", root=str(Path(settings.data) / "cifar10"), limit=images)
    data.setup("fit")
    return data


def _settings(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data",
        default=os.environ.get("SALIENCY_LAB_DATA"),
        help="folder with cifar10/train/<class>; without it the embedded data set",
    )
    parser.add_argument("--images", type=int, default=50_000, help="training images")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=["basic_cnn", "resnet18"])
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
