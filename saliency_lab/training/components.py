"""Data, classifier, schedule and Trainer as a configuration describes them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from saliency_lab.config.binding import bound_arguments, built
from saliency_lab.data.module import ImageData, SplitName
from saliency_lab.errors import UserError
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.construction import GIVEN as GIVEN_TO_MODEL
from saliency_lab.models.construction import built_network
from saliency_lab.models.trained_samples import trained_samples
from saliency_lab.runs.directory import read_summary
from saliency_lab.runs.processes import process_rank
from saliency_lab.training.progress import ProgressReport

log = logging.getLogger(__name__)

# What the program passes by itself, per group.
GIVEN = {
    "data": (),
    "model": GIVEN_TO_MODEL,
    "optimizer": ("params",),
    "scheduler": ("optimizer", "max_epochs"),
    "trainer": ("directory", "callbacks", "loggers"),
}


def data_module(config: Mapping[str, Any]) -> ImageData:
    """The data module, with its files found and its classes known."""
    data = built(config["data"], "data")
    if not isinstance(data, ImageData):
        raise UserError(
            f"Expected `data._target_` to be an ImageData, but got {type(data).__name__}"
        )
    return data


def require_unseen(classifier: Classifier, data: ImageData, split: str) -> None:
    """Refuse test images that the classifier was trained on.

    Raises:
        UserError: some of them were, as far as the checkpoint says.
    """
    seen = trained_samples(classifier.facts, data.ids("test")) if split == "test" else None
    if seen is not None and seen.any():
        named = [data.ids("test")[place] for place in np.flatnonzero(seen)[:3]]
        raise UserError(
            f"Expected test images that the classifier was not trained on, but {int(seen.sum())} "
            f"of {len(seen)} were part of its training ({', '.join(named)}, …); pass split=train "
            "to measure training images"
        )


def tell_changed_data(config: Mapping[str, Any], directory: Path) -> None:
    """Warn where a finished run was made from other images than are there now.

    Data sets without files of a person's own (no `data.root`) do not change.
    """
    known = read_summary(directory).get("data", {})
    if process_rank() > 0 or config["data"].get("root") is None or "fingerprint" not in known:
        return
    split = changed_split(data_module(config), known)
    if split is not None:
        log.warning("the %s images have changed since this run; pass overwrite=true to redo", split)


def changed_split(data: ImageData, known: Mapping[str, Any]) -> str | None:
    """A split whose images are others than those of a run, or have other pixels; None: none.

    Args:
        data: as the images are now.
        known: `data` of the run's summary; runs of before may lack what they cannot be asked for.
    """
    split: SplitName = "test" if known.get("split") == "test" else "train"
    if data.fingerprint(split) != known.get("fingerprint", data.fingerprint(split)):
        return split
    changed = (name for name, was in known.get("pixels", {}).items() if data.content(name) != was)
    return next(changed, None)


def classifier(
    config: Mapping[str, Any], data: ImageData, *, load_weights: bool = True
) -> Classifier:
    """A classifier for the data, ready to be trained; no image is decoded for it.

    Without `load_weights` a pretrained one has its structure only; a checkpoint brings the rest.
    """
    model, resize = config["model"], getattr(data, "resize", None)
    net = built_network(model, data.num_classes, data.input_shape, load_weights=load_weights)
    facts = {
        "model": dict(model),
        "data": data.name,
        "resize": resize if isinstance(resize, str) else None,
        "classes": list(data.class_names),
        "input_shape": list(data.input_shape),
    }
    return Classifier(
        net,
        data.num_classes,
        seed=int(config["seed"]),
        optimizer=_partial(config["optimizer"], "optimizer"),
        scheduler=schedule(config, config["trainer"]["max_epochs"]),
        facts=facts,
    )


def schedule(config: Mapping[str, Any], max_epochs: int) -> Callable[[Optimizer], LRScheduler]:
    """From an optimizer to the configured schedule of a training of that many epochs."""
    partial = _partial(config["scheduler"], "scheduler", "max_epochs")
    return functools.partial(partial, max_epochs=max_epochs)


def _partial(component: Mapping[str, Any], key: str, *given: str) -> Callable[..., Any]:
    target, arguments = bound_arguments(component, key, (*GIVEN[key], *given))
    return functools.partial(target, **arguments)


def callback_components(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The components of the `callback` group by their keys: one, or several by name."""
    group: Mapping[str, Any] = config.get("callback") or {}
    if "_target_" in group:
        return {"callback": group}
    return {f"callback.{name}": component for name, component in group.items()}


def training_callbacks(config: Mapping[str, Any]) -> list[pl.Callback]:
    """What the `callback` group adds to a training."""
    found = []
    for key, component in callback_components(config).items():
        callback = built(component, key)
        if not isinstance(callback, pl.Callback):
            raise UserError(
                f"Expected `{key}._target_` to be a Lightning callback, but got "
                f"{type(callback).__name__}"
            )
        found.append(callback)
    return found


def lightning_trainer(
    config: Mapping[str, Any],
    directory: Path,
    callbacks: Sequence[pl.Callback],
    loggers: Sequence[Any] = (),
) -> pl.Trainer:
    """The Trainer of the `trainer` group with a progress report and these callbacks."""
    everything = [*callbacks, ProgressReport(config["trainer"]["progress"])]
    trainer = built(
        config["trainer"], "trainer", directory=directory, callbacks=everything, loggers=loggers
    )
    if not isinstance(trainer, pl.Trainer):
        raise UserError(
            f"Expected `trainer._target_` to give a Trainer, but got {type(trainer).__name__}"
        )
    return trainer
