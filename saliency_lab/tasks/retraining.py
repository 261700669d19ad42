"""Networks trained on altered images for the evaluator that wants them: found or trained first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from saliency_lab.config.identity import (
    DECIDES_TRAINING,
    NUMBERS,
    decides,
    is_below,
    leaves,
    not_identity,
)
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.retraining.conditions import Retrained
from saliency_lab.evaluation.retraining.evaluator import Retraining
from saliency_lab.models.classifier import Classifier
from saliency_lab.runs.agreement import agreed
from saliency_lab.runs.directory import CONFIG, held, is_finished, read_config
from saliency_lab.tasks.retraining_sweep import IMAGES, MEAN, Job, Sweep
from saliency_lab.training.checkpoints import newest_checkpoint

log = logging.getLogger(__name__)

# Of the trainer's settings those that decide the numbers; the others are this run's own.
_TRAINER = ("max_epochs", *DECIDES_TRAINING)
_DATA = ("batch_size", "augment", "validation")


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
    if len(wanted) > 1:
        raise UserError("Expected `evaluator` to hold retraining once, but it holds several")
    (evaluator,) = wanted
    stored = _stored_training(config, method)
    recipe = _recipe(config, stored, model, evaluator)
    place = retraining_directory(config, recipe)
    jobs: dict[Job, Path] = {
        (view, condition, seed): place / view / condition.label / f"seed-{seed}"
        for view in method.views
        for condition in evaluator.trained_on
        for seed in evaluator.seeds
    }
    with contextlib.ExitStack() as stack:
        # Only the first process holds the place; the others wait for what it found.
        left = agreed(trainer, lambda: _left(place, jobs, stack))
        if left or not (place / MEAN).is_file():
            sweep = Sweep(config, recipe, place, data, trainer)
            sweep.run(method, model, {key: jobs[key] for key in left}, len(jobs))
        if trainer.is_global_zero:
            for folder in {home.parent / IMAGES for home in jobs.values()}:
                # Left by a kill between the last training's end and their removal.
                shutil.rmtree(folder, ignore_errors=True)
    mean = json.loads((place / MEAN).read_text(encoding="utf-8"))
    return Retrained(tuple(mean), {key: _checkpoint(home) for key, home in jobs.items()})


def _left(place: Path, jobs: Mapping[Job, Path], stack: contextlib.ExitStack) -> list[Job]:
    """The trainings that are not finished, with their place held against other processes."""
    stack.enter_context(held(place))
    left = [key for key, home in jobs.items() if not is_finished(home)]
    log.info("%d of %d retrainings already done, in %s", len(jobs) - len(left), len(jobs), place)
    return left


def retraining_directory(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> Path:
    """Where retrainings lie: `retraining/METHOD/DIGEST` in the classifier's run directory.

    The digest is of all that decides the altered training images and how networks are trained on
    them, but view, condition and seed, which name the folders inside.
    """
    ignored = not_identity({"data": recipe["images"]})
    data = {k: v for k, v in recipe["images"].items() if not is_below(f"data.{k}", ignored)}
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
    stored = read_config(Path(home))
    if "data" not in stored:
        raise UserError(
            "Expected `ckpt` to lie in the run directory of its training for "
            f"evaluator=retraining, but '{home}' has no readable {CONFIG}"
        )
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
    optimizer = dict(stored["optimizer"])
    if evaluator.learning_rate is not None:
        optimizer["lr"] = evaluator.learning_rate
    data = {name: stored["data"][name] for name in _DATA if name in stored["data"]}
    if evaluator.batch_size is not None:
        data["batch_size"] = evaluator.batch_size
    return {
        "model": dict(model.facts["model"]),
        "optimizer": optimizer,
        "scheduler": stored["scheduler"],
        "callback": stored.get("callback", {}),
        "trainer": trainer,
        "data": data,
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
