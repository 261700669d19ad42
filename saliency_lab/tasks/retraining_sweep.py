"""One training after the other on altered images, for `evaluator=retraining`."""

from __future__ import annotations

import copy
import functools
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from saliency_lab.attribution.maps import require_finite
from saliency_lab.config.binding import built
from saliency_lab.data.module import ImageData
from saliency_lab.evaluation.context import Context, Method
from saliency_lab.evaluation.loop import prepared
from saliency_lab.evaluation.retraining.alteration import pixel_ranks
from saliency_lab.evaluation.retraining.conditions import Condition
from saliency_lab.evaluation.retraining.evaluator import TIES
from saliency_lab.evaluation.retraining.ranks import KeptRanks
from saliency_lab.models.classifier import Classifier
from saliency_lab.runs.agreement import agreed
from saliency_lab.runs.directory import is_finished
from saliency_lab.runs.files import write_json
from saliency_lab.tasks.altered_images import AlteredImages, channel_means
from saliency_lab.tasks.fitting import train_classifier
from saliency_lab.training.components import data_module

log = logging.getLogger(__name__)

MEAN, IMAGES = "mean.json", "images"
Job = tuple[str, Condition, int]
"""View, condition and seed of a training."""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Sweep:
    """The trainings that are left, one after the other.

    Attributes:
        config: of the evaluation.
        recipe: how networks are trained, and on the images of which data set.
        place: where everything of it lies.
        data: of the evaluation, with its test images open.
        trainer: of the evaluation: which processes there are.
    """

    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    place: Path
    data: ImageData
    trainer: pl.Trainer

    def run(
        self,
        method: Method,
        model: Classifier,
        jobs: Mapping[Job, Path],
        total: int,
    ) -> None:
        """Train each job's network in its directory; altered images are kept as long as needed."""
        images = data_module({**self.config, "data": self.recipe["images"]})
        images.download()
        images.setup("fit")
        data: dict[Split, ImageData] = {"train": images, "test": self.data}
        ranks = {split: self._ranks(split, data[split], method) for split in data}
        self._make_ranks(data, ranks, method, model)
        if self.trainer.is_global_zero and not (self.place / MEAN).is_file():
            write_json(self.place / MEAN, channel_means(images))
        self.trainer.strategy.barrier()
        mean = json.loads((self.place / MEAN).read_text(encoding="utf-8"))
        source = AlteredImages(data, ranks, mean, int(self.config["seed"]))
        done = total - len(jobs)
        for (view, condition, seed), home in jobs.items():
            done += 1
            folder = home.parent / IMAGES
            log.info(
                "retraining %d of %d: %s, %s, seed %d", done, total, view, condition.label, seed
            )
            agreed(self.trainer, functools.partial(source.write, folder, view, condition))
            train_classifier(self._training(folder, seed), home)
            others = [path for key, path in jobs.items() if key[:2] == (view, condition)]
            if self.trainer.is_global_zero:
                _keep_last(home)
                if all(is_finished(path) for path in others):
                    shutil.rmtree(folder, ignore_errors=True)
            self.trainer.strategy.barrier()

    def _ranks(self, split: Split, data: ImageData, method: Method) -> KeptRanks:
        name = split if split == "train" else f"test-{data.fingerprint('test')}"
        _, height, width = data.input_shape
        count = len(data.ids(split))
        return KeptRanks(self.place / "ranks" / name, method.views, count, (height, width))

    def _make_ranks(
        self,
        data: Mapping[Split, ImageData],
        ranks: Mapping[Split, KeptRanks],
        method: Method,
        model: Classifier,
    ) -> None:
        """Explain the images whose pixels have no ranks yet, each process its share of them."""
        trainer = self.trainer
        left = agreed(
            trainer, lambda: [(s, n) for s, kept in ranks.items() for n in kept.missing()]
        )
        device = trainer.strategy.root_device
        mine = left[trainer.global_rank :: trainer.world_size]
        if mine:
            network = model.network.to(device).eval()
            sample = torch.from_numpy(data["test"].images("test", [0])).to(device).float() / 255
            ready = prepared(built(self.config["engine"], "engine"), network, sample)
        for split, number in mine:
            context = Context(ready, method, data[split], split, int(self.config["seed"]))
            positions = ranks[split].positions(number)
            log.info("explaining %s images %d to %d", split, positions[0], positions[-1])
            for view, found in self._explained(context, positions).items():
                ranks[split].write(view, number, found.cpu().numpy())
        trainer.strategy.barrier()

    def _explained(self, context: Context, positions: range) -> dict[str, Tensor]:
        """By view the ranks (n, H, W) of the images at these positions of the context's split."""
        ids = context.data.ids(context.split)[positions.start : positions.stop]
        device = self.trainer.strategy.root_device
        pixels = torch.from_numpy(context.data.images(context.split, positions))
        images = pixels.to(device).float() / 255
        explained = context.maps_of(images, ids)
        if self.config["on_nonfinite"] == "error":
            require_finite(explained.finite, ids)
        # Where images without finite maps are to be skipped, their pixels are in random order.
        known = explained.finite[:, None, None]
        return {
            view: pixel_ranks(torch.where(known, values, 0), context.generator(ids, TIES))
            for view, values in explained.maps.items()
        }

    def _training(self, folder: Path, seed: int) -> dict[str, Any]:
        """The configuration of an ordinary training on the altered images."""
        config, recipe = copy.deepcopy(dict(self.config)), copy.deepcopy(dict(self.recipe))
        own = {"name": "arrays", "_target_": "saliency_lab.data.arrays.Arrays"}
        return {
            "task": "train",
            "output_root": config["output_root"],
            "overwrite": False,
            "seed": seed,
            "data": {**own, **recipe["data"], "root": str(folder), "seed": seed},
            "model": recipe["model"],
            "optimizer": recipe["optimizer"],
            "scheduler": recipe["scheduler"],
            "callback": recipe["callback"],
            "trainer": {**config["trainer"], **recipe["trainer"]},
            # A process has one W&B run, which is the evaluation's.
            "logger": {**config["logger"], "mode": "disabled"},
            "continues": None,
            "sources": {},
        }


def _keep_last(home: Path) -> None:
    """Of a finished training only the network that is measured: there may be a hundred."""
    for name in ("previous.ckpt", "best.ckpt"):
        (home / "checkpoints" / name).unlink(missing_ok=True)
