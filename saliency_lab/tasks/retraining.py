"""Networks trained on altered images for the evaluator that wants them: found or trained first."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import yaml

from saliency_lab.attribution.maps import require_finite
from saliency_lab.config.binding import built
from saliency_lab.config.identity import NUMBERS, decides, leaves
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.context import Context, Method
from saliency_lab.evaluation.loop import prepared
from saliency_lab.evaluation.retraining.alteration import pixel_ranks
from saliency_lab.evaluation.retraining.conditions import Condition, Retrained
from saliency_lab.evaluation.retraining.evaluator import TIES, Retraining
from saliency_lab.evaluation.retraining.ranks import KeptRanks
from saliency_lab.models.classifier import Classifier
from saliency_lab.runs.agreement import agreed
from saliency_lab.runs.directory import CONFIG, is_finished
from saliency_lab.runs.files import write_json
from saliency_lab.tasks.altered_images import AlteredImages, channel_means
from saliency_lab.tasks.fitting import train_classifier
from saliency_lab.training.checkpoints import newest_checkpoint
from saliency_lab.training.components import data_module

log = logging.getLogger(__name__)

# Of the trainer's settings those that decide the numbers; the others are this run's own.
_TRAINER = ("max_epochs", "precision", "gradient_clip_val", "sync_batchnorm", "batch")
_DATA = ("batch_size", "augment", "validation")
_MEAN, _IMAGES = "mean.json", "images"
Split = Literal["train", "test"]


def retrained(
    config: Mapping[str, Any],
    method: Method,
    model: Classifier,
    data: ImageData,
    evaluators: Mapping[str, Evaluator],
    trainer: pl.Trainer,
) -> Retrained | None:
    """The networks that an evaluator of `needs` "retrained" measures; None if there is none.

    Each is the `train` task's own training, in a directory of its own below the classifier's: a
    finished one is found again, a killed one goes on from its last epoch.

    Args:
        config, model: what `pair_classifier` gave.
        data: of the run, with its test images open.
        trainer: of the run; its processes all call this alike.

    Raises:
        UserError: training images are to be measured, the classifier's training is not known, or
            the method cannot explain its images.
    """
    wanted = [one for one in evaluators.values() if isinstance(one, Retraining)]
    if not wanted:
        return None
    (evaluator,) = wanted
    stored = _stored_training(config, method)
    recipe = _recipe(config, stored, model, evaluator)
    place = retraining_directory(config, recipe)
    jobs = {
        (view, condition, seed): place / view / condition.label / f"seed-{seed}"
        for view in method.views
        for condition in evaluator.trained_on
        for seed in evaluator.seeds
    }
    left = agreed(trainer, lambda: [key for key, home in jobs.items() if not is_finished(home)])
    log.info("%d of %d retrainings already done, in %s", len(jobs) - len(left), len(jobs), place)
    if left or not (place / _MEAN).is_file():
        sweep = _Sweep(config, recipe, place, data, trainer)
        sweep.run(method, model, {key: jobs[key] for key in left}, len(jobs))
    if trainer.is_global_zero:
        for folder in {home.parent / _IMAGES for home in jobs.values()}:
            # Left by a kill between the last training's end and their removal.
            shutil.rmtree(folder, ignore_errors=True)
    mean = json.loads((place / _MEAN).read_text(encoding="utf-8"))
    return Retrained(tuple(mean), {key: _checkpoint(home) for key, home in jobs.items()})


def retraining_directory(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> Path:
    """Where retrainings lie: `retraining/METHOD/DIGEST` in the classifier's run directory.

    The digest is of all that decides the altered training images and how networks are trained on
    them, but view, condition and seed, which name the folders inside.
    """
    data = {key: value for key, value in recipe["images"].items() if decides(f"data.{key}=")}
    known = {
        "classifier": config["classifier"]["sha256"],
        "method": config["method"],
        "view": {name: config["view"][name] for name in ("channels", "competitors")},
        "engine": {k: v for k, v in config["engine"].items() if decides(f"engine.{k}=")},
        "sources": config["sources"],
        "seed": config["seed"],
        "numbers": NUMBERS,
        "training": {**recipe, "images": data},
    }
    text = json.dumps(leaves(known), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = "".join(c if c.isalnum() else "_" for c in str(config["method"]["name"]))
    return Path(config["classifier"]["directory"]) / "retraining" / name / digest


def _stored_training(config: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """The configuration with which the classifier was trained."""
    if config["split"] != "test":
        raise UserError(
            "Expected `split` to be test for evaluator=retraining, whose networks are trained on "
            f"the training images, but got {config['split']}"
        )
    if not method.recomputes:
        raise UserError(
            "Expected `method` to be one that can explain training images for "
            f"evaluator=retraining, but {method.name} only has the maps in its file"
        )
    home = config["classifier"]["directory"]
    if home is None:
        raise UserError(
            "Expected `ckpt` to lie in the run directory of its training for "
            "evaluator=retraining, which trains as that did, but got "
            f"'{config['classifier']['path']}'"
        )
    stored: dict[str, Any] = yaml.safe_load((Path(home) / CONFIG).read_text(encoding="utf-8"))
    return stored


def _recipe(
    config: Mapping[str, Any],
    stored: Mapping[str, Any],
    model: Classifier,
    evaluator: Retraining,
) -> dict[str, Any]:
    """All that decides a retraining but its images: the classifier's own settings."""
    limit = evaluator.train_limit or stored["data"].get("limit")
    trainer = {name: stored["trainer"][name] for name in _TRAINER if name in stored["trainer"]}
    if evaluator.epochs is not None:
        trainer["max_epochs"] = evaluator.epochs
    return {
        "model": dict(model.facts["model"]),
        "optimizer": stored["optimizer"],
        "scheduler": stored["scheduler"],
        "callback": stored.get("callback", {}),
        "trainer": trainer,
        "data": {name: stored["data"][name] for name in _DATA if name in stored["data"]},
        # The images that are explained, as they are before they are altered.
        "images": {**config["data"], "limit": limit, "augment": "none", "validation": 0.0},
    }


def _checkpoint(home: Path) -> Path:
    found = newest_checkpoint(home)
    if found is None:
        raise UserError(
            f"Expected '{home}' to hold a finished training, but its checkpoint is gone; remove "
            "this directory, and the same command trains it again"
        )
    return found


@dataclass(frozen=True)
class _Sweep:
    """The trainings that are left, one after the other.

    Attributes:
        config: of the evaluation.
        recipe: see `_recipe`.
        place: see `retraining_directory`.
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
        jobs: Mapping[tuple[str, Condition, int], Path],
        total: int,
    ) -> None:
        """Train each job's network in its directory; altered images are kept as long as needed."""
        images = data_module({**self.config, "data": self.recipe["images"]})
        images.download()
        images.setup("fit")
        data: dict[Split, ImageData] = {"train": images, "test": self.data}
        ranks = {split: self._ranks(split, data[split], method) for split in data}
        self._make_ranks(data, ranks, method, model)
        if self.trainer.is_global_zero and not (self.place / _MEAN).is_file():
            write_json(self.place / _MEAN, channel_means(images))
        self.trainer.strategy.barrier()
        mean = json.loads((self.place / _MEAN).read_text(encoding="utf-8"))
        source = AlteredImages(data, ranks, mean, int(self.config["seed"]))
        done = total - len(jobs)
        for (view, condition, seed), home in jobs.items():
            done += 1
            folder = home.parent / _IMAGES
            log.info(
                "retraining %d of %d: %s, %s, seed %d", done, total, view, condition.label, seed
            )
            agreed(self.trainer, functools.partial(source.write, folder, view, condition))
            train_classifier(self._training(folder, seed), home)
            others = [path for key, path in jobs.items() if key[:2] == (view, condition)]
            if self.trainer.is_global_zero:
                _keep_last(home)
                if all(is_finished(path) for path in others):
                    shutil.rmtree(folder)
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
            ranks[split].write(number, self._explained(context, positions))
        trainer.strategy.barrier()

    def _explained(self, context: Context, positions: range) -> Any:
        """Ranks (V, n, H, W) of the images at these positions of the context's split."""
        ids = context.data.ids(context.split)[positions.start : positions.stop]
        device = self.trainer.strategy.root_device
        pixels = torch.from_numpy(context.data.images(context.split, positions))
        images = pixels.to(device).float() / 255
        explained = context.maps_of(images, ids)
        if self.config["on_nonfinite"] == "error":
            require_finite(explained.finite, ids)
        # Where images without finite maps are to be skipped, their pixels are in random order.
        known = explained.finite[:, None, None]
        found = [
            pixel_ranks(torch.where(known, values, 0), context.generator(ids, TIES))
            for values in explained.maps.values()
        ]
        return torch.stack(found).cpu().numpy()

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
