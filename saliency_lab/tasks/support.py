"""Support models for the method that wants them: found or trained before its first map."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from saliency_lab.attribution.core.sources import Source
from saliency_lab.attribution.methods.gad import SupportTraining, needs_support
from saliency_lab.config.identity import DECIDES_TRAINING, decides
from saliency_lab.data.module import ImageData
from saliency_lab.evaluation.context import Method
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.pair import PairNetwork, class_pair
from saliency_lab.training.components import data_module, lightning_trainer
from saliency_lab.training.support import SupportPlace
from saliency_lab.training.trainer import trainer as usual_trainer


def pair_classifier(
    config: Mapping[str, Any], method: Method, model: Classifier
) -> tuple[Mapping[str, Any], Classifier]:
    """The configuration and classifier as a method with support models sees them.

    Such a method tells two classes apart. The data are the images of these two, and the
    classifier answers with their two logits alone, so its prediction is always one of them. Any
    other method gets what it was given.

    Raises:
        UserError: `method.classes` is no pair of the classifier's classes.
    """
    if not needs_support(method.source):
        return config, model
    names = list(model.facts["classes"])
    first, second = class_pair(names, config["method"].get("classes"))
    pair = [names[first], names[second]]
    facts = {**model.facts, "classes": pair}
    network = PairNetwork(model.network, first, second)
    asked = Classifier(network, 2, facts=facts).eval()
    return {**config, "data": {**config["data"], "classes": pair}}, asked


def supported(
    config: Mapping[str, Any],
    method: Method,
    model: Classifier,
    device: torch.device,
    *,
    controls: bool,
) -> Method:
    """The method with its support models, if it wants any; they are trained where missing.

    Args:
        config, model: what `pair_classifier` gave; the models are kept beside the checkpoint
            that the configuration's `classifier` names.
        device: where maps are computed.
        controls: also the models that an evaluator of `needs` "support" compares with.

    Raises:
        UserError: another process is training them, or what the data raise.
    """
    if not needs_support(method.source):
        return method
    settings = _settings(method.source)
    data = _training_data(config["data"], settings)
    place = SupportPlace(
        support_directory(
            config["classifier"],
            model.facts["classes"],
            data,
            settings,
            config["trainer"],
            int(config["seed"]),
        ),
        settings,
        int(config["seed"]),
        functools.partial(_trainer, config),
    )
    models = place.models(model.network, lambda: _loaded(config, data), controls=controls)
    for network in (*models.distanced, *models.retrained):
        network.to(device)
    return dataclasses.replace(method, source=functools.partial(method.source, support=models))


def support_directory(
    classifier: Mapping[str, Any],
    classes: Sequence[str],
    data: Mapping[str, Any],
    settings: SupportTraining,
    trainer: Mapping[str, Any],
    seed: int,
) -> Path:
    """Where support models lie: `support/A-B/DIGEST` in the run directory of the checkpoint.

    The digest is of the classifier's weights and of all that decides the training but α, which
    names the folders inside.

    Args:
        classifier: `path` and `sha256` of its checkpoint.
        trainer: the settings of the trainer, of which some decide and those that are not usual
            are named.
    """
    known: dict[str, Any] = {
        "classifier": classifier["sha256"],
        "data": {key: value for key, value in data.items() if decides(f"data.{key}=")},
        "settings": {**dataclasses.asdict(settings), "alphas": None},
        "seed": seed,
    }
    if unusual := _unusual(trainer):
        known["trainer"] = unusual
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    beside = Path(classifier["path"]).absolute().parent
    run = beside.parent if beside.name == "checkpoints" else beside
    pair = "-".join("".join(c if c.isalnum() else "_" for c in name) for name in classes)
    return run / "support" / pair / digest


def _unusual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a training and is not what a trainer does by itself."""
    usual = inspect.signature(usual_trainer).parameters
    names = list(DECIDES_TRAINING)
    if settings.get("batch") == "per_process":
        names += ["devices", "num_nodes"]
    return {
        name: settings[name]
        for name in names
        if name in settings and settings[name] != usual[name].default
    }


def _settings(source: Source) -> SupportTraining:
    found = getattr(source, "keywords", {}).get("training")
    return found if isinstance(found, SupportTraining) else SupportTraining()


def _training_data(data: Mapping[str, Any], settings: SupportTraining) -> dict[str, Any]:
    own = {
        "limit": settings.limit,
        "batch_size": settings.batch_size,
        "augment": "none",
        "validation": 0.0,
    }
    return {**data, **own}


def _loaded(config: Mapping[str, Any], data: Mapping[str, Any]) -> ImageData:
    module = data_module({**config, "data": data})
    module.download()
    return module


def _trainer(
    config: Mapping[str, Any], directory: Path, callbacks: Sequence[pl.Callback], epochs: int
) -> pl.Trainer:
    settings = {**copy.deepcopy(config["trainer"]), "max_epochs": epochs}
    return lightning_trainer({**config, "trainer": settings}, directory, callbacks)
