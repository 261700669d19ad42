"""What the train task does once it is known that there is something to do."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.intervals import Interval, accuracy_interval
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.given import has_layers
from saliency_lab.models.trained_samples import FACT, sample_digests
from saliency_lab.models.weights import read_file
from saliency_lab.report.drawing.figures import confusion_figure, figure_bytes, training_figure
from saliency_lab.runs.agreement import agreed
from saliency_lab.runs.directory import begin, finish, held, is_finished
from saliency_lab.runs.files import atomic_path
from saliency_lab.tasks.components import checked, tracker
from saliency_lab.tracking.epoch_logger import EpochLogger
from saliency_lab.tracking.records import record_training
from saliency_lab.tracking.tracking import Record
from saliency_lab.training.batch_norms import evaluated_accuracy, lags
from saliency_lab.training.checkpoints import Checkpoints, newest_checkpoint
from saliency_lab.training.components import (
    classifier,
    data_module,
    lightning_trainer,
    training_callbacks,
)
from saliency_lab.training.continuation import continued_checkpoint
from saliency_lab.training.memory_allocation import keep_freed_memory

log = logging.getLogger(__name__)


def train_classifier(config: Mapping[str, Any], directory: Path) -> None:
    """Train in the run directory, from its newest checkpoint if it has one, then test.

    Raises:
        UserError: the configuration, the data or the weights are wrong. Nothing is written then.
    """
    checked(config)
    if not has_layers(config["model"]):
        raise UserError(
            f"Expected `model` to be one that can be trained, but {config['model']['name']} is an "
            "exported network: evaluate it with ckpt=none"
        )
    keep_freed_memory()
    checkpoints = Checkpoints(directory)
    trainer = lightning_trainer(config, directory, [*training_callbacks(config), checkpoints])
    with contextlib.ExitStack() as stack:
        start = agreed(trainer, lambda: _start(config, directory, stack))
        if start is None:
            return  # it was finished while this process waited for it
        data = data_module(config)
        data.download()
        data.global_batch = config["trainer"]["batch"] == "global"
        resume, continued = start["resume"], start["continued"]
        pl.seed_everything(int(config["seed"]) % 2**32, verbose=False)
        # A checkpoint brings the weights: nothing is downloaded a second time. And a mistake in
        # the model's settings shows before an hour of decoding.
        model = classifier(config, data, load_weights=resume is None)
        data.setup("fit")
        data.setup("test")
        model.facts["fingerprint"] = data.fingerprint("train")
        model.facts["pixels"] = data.content("train")
        model.facts[FACT] = sample_digests(data.ids("train"))
        if resume is not None:
            _require_same_outputs(model, resume)
        if trainer.is_global_zero:
            begin(directory, config, overwrite=config["overwrite"])
            if continued is not None:
                checkpoints.take_over(continued)
            elif resume is not None:
                checkpoints.go_on_from(resume)
            _say_shares(data, trainer.world_size)
        with tracker(config).run(config, directory) as record:
            if record is not None:
                trainer.loggers = [EpochLogger(record, directory)]
            _trained(config, directory, data, model, checkpoints, trainer, resume, record)


def _start(
    config: Mapping[str, Any], directory: Path, stack: contextlib.ExitStack
) -> dict[str, Path | None] | None:
    """Where to go on from, with the directory held; None where another process has finished it."""
    stack.enter_context(held(directory))
    if is_finished(directory) and not config["overwrite"]:
        return None
    mine = None if config["overwrite"] else newest_checkpoint(directory)
    continued = continued_checkpoint(config) if mine is None else None
    return {"resume": mine or continued, "continued": continued}


def _require_same_outputs(model: Classifier, checkpoint: Path) -> None:
    """Refuse to go on with other classes or another size than the checkpoint's weights are for."""
    before = read_file(checkpoint, "checkpoint").get("facts", {})
    for fact, what in (("classes", "the classes"), ("input_shape", "images of the shape")):
        then, now = before.get(fact), model.facts[fact]
        if then is not None and list(then) != list(now):
            raise UserError(
                f"Expected `data` to have {what} that '{checkpoint}' was trained on, "
                f"{_few(then)}, but got {_few(now)}; overwrite=true starts over"
            )
    if any(before.get(fact) not in (None, model.facts[fact]) for fact in ("fingerprint", "pixels")):
        log.warning("the training images are others than those that %s was trained on", checkpoint)


def _few(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")


def _say_shares(data: ImageData, processes: int) -> None:
    if processes > 1:
        batch = data.batch_size if data.global_batch else data.batch_size * processes
        each = f"{batch / processes:.4g}"
        log.info("%d processes, %s images each per batch of %d", processes, each, batch)


def _trained(
    config: Mapping[str, Any],
    directory: Path,
    data: ImageData,
    model: Classifier,
    checkpoints: Checkpoints,
    trainer: pl.Trainer,
    resume: Path | None,
    record: Record | None,
) -> None:
    began = time.monotonic()
    if resume is not None:
        log.info("resuming from %s", resume)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"Expected `data.batch_size` to give {config['model']['name']} two images or more at a "
            f"time, because of its batch norms, but got {data.batch_size}"
        ) from error
    model.reset_counts()
    trainer.test(model, datamodule=data, verbose=False)
    tested = model.tested()
    if not math.isfinite(tested["loss"]):
        raise UserError(
            "Expected the training to keep finite weights, but the loss of the test images is "
            f"{tested['loss']}; lower `optimizer.lr`"
        )
    if not trainer.is_global_zero:
        return
    evaluated = evaluated_accuracy(model.network, data)
    _warn_of_lag(evaluated, checkpoints.history[-1]["train/accuracy"])
    seconds = time.monotonic() - began
    summary = _summary(config, data, model, checkpoints, tested, evaluated, seconds)
    _draw(directory, checkpoints, tested, data)
    record_training(record, summary, directory)
    finish(directory, summary)


def _warn_of_lag(evaluated: Interval | None, trained: float) -> None:
    if evaluated is not None and lags(evaluated, trained):
        log.warning(
            "in evaluation the network has an accuracy of %.3f [%.3f, %.3f] on training images, "
            "while it was trained %.3f: its batch norms' running statistics lag behind weights "
            "that still change; scheduler=cosine lets both settle, callback=precise_batch_norm "
            "takes the statistics anew after each epoch",
            *evaluated,
            trained,
        )


def _summary(
    config: Mapping[str, Any],
    data: ImageData,
    model: Classifier,
    checkpoints: Checkpoints,
    tested: Mapping[str, Any],
    evaluated: Interval | None,
    seconds: float,
) -> dict[str, Any]:
    interval = accuracy_interval(tested["correct"], tested["images"])
    last = checkpoints.history[-1]
    return {
        "task": "train",
        "data": {
            "name": data.name,
            "images": data.sizes,
            "classes": list(data.class_names),
            "fingerprint": data.fingerprint("train"),
            "pixels": {name: data.content(name) for name in data.sizes},
        },
        "model": {
            "name": config["model"]["name"],
            "parameters": sum(p.numel() for p in model.network.parameters()),
            "trained": sum(p.numel() for p in model.network.parameters() if p.requires_grad),
        },
        "seed": config["seed"],
        "epochs": last["epoch"],
        "continues": config["continues"],
        "test": {
            "accuracy": tested["correct"] / tested["images"],
            "low": float(interval.low),
            "high": float(interval.high),
            "loss": tested["loss"],
            "images": tested["images"],
        },
        "train": {
            "loss": last["train/loss"],
            "accuracy": last["train/accuracy"],
            # of 256 images, where batch norms may make this another network
            "in_evaluation": None
            if evaluated is None
            else {
                "accuracy": float(evaluated.value),
                "low": float(evaluated.low),
                "high": float(evaluated.high),
                "lags": lags(evaluated, last["train/accuracy"]),
            },
        },
        "best": checkpoints.best,
        "confusion": tested["confusion"],
        "training_seconds": sum(row["seconds"] for row in checkpoints.history),
        "seconds": seconds,
    }


def _draw(
    directory: Path, checkpoints: Checkpoints, tested: Mapping[str, Any], data: ImageData
) -> None:
    figures = {
        "training": training_figure(pd.DataFrame(checkpoints.history)),
        "confusion": confusion_figure(tested["confusion"], data.class_names, "Test images"),
    }
    for name, figure in figures.items():
        with atomic_path(directory / "figures" / f"{name}.png") as path:
            path.write_bytes(figure_bytes(figure, "png"))
