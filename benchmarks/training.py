"""`python -m benchmarks.training --data DIR`: seconds per epoch against a bare PyTorch loop.

Both sides train the same model on the same batches in the same order, one batch of ours, then the
same batch of theirs, each in its own process, so that a busy moment of the machine hits both. The
bare loop (benchmarks/bare_loop.py) has all images as float tensors in memory and does nothing but
index, forward, backward and step. Ours is the train task as it is: batches gathered from the
mapped uint8 file, Lightning, metrics, progress, checkpoints with their fsync. Whatever it does
outside of batches counts, too.

Before anything is timed, and again at the end, the weights of both sides must be bitwise equal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from saliency_lab.data.batch import Batch
from saliency_lab.data.cifar10 import Cifar10
from saliency_lab.data.module import ImageData
from saliency_lab.data.shapes import Shapes
from saliency_lab.training.checkpoints import Checkpoints
from saliency_lab.training.components import classifier, lightning_trainer
from saliency_lab.training.memory_allocation import keep_freed_memory

TARGET = 1.05
CHECKED_IMAGES = 1000


def main() -> int:
    """Measure each model, print one line for each; 1 where a ratio is above the target."""
    settings = _settings()
    torch.set_num_threads(settings.threads)
    kept = keep_freed_memory()  # as the train task does
    print(
        f"{settings.threads} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
        f"freed memory is {'kept' if kept else 'handed back'}"
    )
    worst = 0.0
    for name in settings.models:
        _side_by_side(name, _data(settings, CHECKED_IMAGES), 1, settings.threads)
        data = _data(settings, settings.images)
        ours, theirs = _side_by_side(name, data, settings.epochs, settings.threads)
        worst = max(worst, ours / theirs)
        print(
            f"{name:10} {len(data.split('train')):,} images, an epoch: "
            f"ours {ours / settings.epochs:.2f} s, bare loop {theirs / settings.epochs:.2f} s, "
            f"ratio {ours / theirs:.3f} (target {TARGET}); same weights",
            flush=True,
        )
    return int(worst > TARGET)


class Turns(pl.Callback):
    """Has the bare loop do each batch after ours; keeps its seconds and those of waiting for it."""

    def __init__(self, bare: subprocess.Popen[str]) -> None:
        self.bare = bare
        self.theirs = self.waited = self.began = self.total = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = _now()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        began = _now()
        self.theirs += float(_answer(self.bare, " ".join(str(row) for row in batch.index.tolist())))
        self.waited += _now() - began

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.total = _now() - self.began


def _side_by_side(name: str, data: ImageData, epochs: int, threads: int) -> tuple[float, float]:
    """Seconds of ours and of the bare loop for `epochs` epochs.

    Raises:
        RuntimeError: the two ended with different weights, so the times compare nothing.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = _config(name, epochs)
        torch.manual_seed(0)
        model = classifier(config, data)
        split = data.split("train")
        images = torch.from_numpy(split.pixels(range(len(split)))).to(torch.float32).div_(255)
        labels = torch.from_numpy(split.labels)
        start = {"network": model.network, "images": images, "labels": labels}
        torch.save(start, folder / "start.pt")
        with _bare_loop(folder, threads) as bare:
            turns = Turns(bare)
            trainer = lightning_trainer(config, folder, [Checkpoints(folder), turns])
            trainer.fit(model, datamodule=data)
        theirs = torch.load(folder / "end.pt", weights_only=True, map_location=model.device)
    for key, tensor in model.network.state_dict().items():
        if not torch.equal(tensor, theirs[key]):
            raise RuntimeError(f"{name}: the two sides have different weights in {key}")
    return turns.total - turns.waited, turns.theirs


@contextlib.contextmanager
def _bare_loop(folder: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    """The process of the bare loop; at the block's end it has written its weights."""
    # Lightning sets this for its own process.
    kept = {k: v for k, v in os.environ.items() if k != "PYTORCH_NVML_BASED_CUDA_CHECK"}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_loop", str(folder), str(threads)],
        env={**kept, "OMP_NUM_THREADS": str(threads)},
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _answer(process)
        yield process
        if process.stdin is not None:
            process.stdin.close()
        process.wait(timeout=60)
    finally:
        process.kill()


def _answer(process: subprocess.Popen[str], question: str | None = None) -> str:
    """The line that the other process answers with.

    Raises:
        RuntimeError: it has ended.
    """
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("Expected pipes to the bare loop")
    if question is not None:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("The bare loop has ended; it says why above")
    return line


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _config(name: str, epochs: int) -> dict[str, Any]:
    return {
        "seed": 0,
        "model": {"_target_": "saliency_lab.models.network.network", "name": name},
        "optimizer": {"_target_": "saliency_lab.models.optimizers.adamw"},
        "scheduler": {"_target_": "saliency_lab.models.optimizers.constant"},
        "trainer": {
            "_target_": "saliency_lab.training.trainer.trainer",
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
