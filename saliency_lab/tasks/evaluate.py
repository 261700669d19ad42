"""Measure saliency maps of a trained classifier: `python -m saliency_lab evaluate`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl

from saliency_lab.config.binding import built
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.kept_maps import KeptMaps
from saliency_lab.evaluation.loop import (
    MAPS,
    EvaluationLoop,
    MeasuredNetwork,
    Plan,
    block_size,
)
from saliency_lab.evaluation.retraining.conditions import Retrained
from saliency_lab.evaluation.rows.format import (
    is_readable,
    kept_maps_folder,
    rows_path,
    shards_folder,
)
from saliency_lab.evaluation.rows.shards import Shards
from saliency_lab.models.classifier import Classifier
from saliency_lab.runs.agreement import agreed
from saliency_lab.runs.directory import (
    held,
    is_finished,
    read_config,
    read_summary,
    refusable,
)
from saliency_lab.runs.processes import process_rank
from saliency_lab.runs.progress import rate_text
from saliency_lab.tasks.classifiers import configured_classifier, require_usable
from saliency_lab.tasks.components import (
    checked,
    configured_evaluators,
    configured_method,
    tracker,
)
from saliency_lab.tasks.foreign_maps import with_stored_maps
from saliency_lab.tasks.printing import print_summary
from saliency_lab.tasks.results import begin_evaluation, write_results
from saliency_lab.tasks.retraining import retrained
from saliency_lab.tasks.support import pair_classifier, supported
from saliency_lab.tracking.records import record_evaluation
from saliency_lab.tracking.tracking import Record
from saliency_lab.training.components import (
    changed_split,
    data_module,
    lightning_trainer,
    require_unseen,
    tell_changed_data,
)

log = logging.getLogger(__name__)

_CHOICES = {
    "split": ("test", "train"),
    "maps": ("discard", "keep"),
    "on_nonfinite": ("error", "skip"),
}


def is_done(config: Mapping[str, Any], directory: Path) -> bool:
    """Whether the directory holds all that the configuration asks for, undamaged."""
    return not config["overwrite"] and not _missing(config, directory)


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Measure the maps that the configuration names with every evaluator that has not yet.

    A killed run is resumed from its last finished block.

    Raises:
        UserError: no trained classifier, wrong settings, or data that is not the classifier's.
    """
    checked(config)
    _check_choices(config)
    evaluators = configured_evaluators(config)
    method = configured_method(config)
    require_usable(config, method)
    for label, evaluator in evaluators.items():
        method.require(evaluator.needs, label)
    trainer = lightning_trainer(config, directory, [])
    with contextlib.ExitStack() as stack:
        labels = agreed(trainer, lambda: _begun(config, directory, stack))
        if not labels:
            tell_changed_data(config, directory)
            say_done(config, directory)
            return
        with tracker(config).run(config, directory) as record:
            wanted = {label: evaluators[label] for label in labels}
            _evaluated(config, directory, trainer, method, wanted, record)
    if trainer.is_global_zero:
        print_summary(read_summary(directory), directory, labels)


def say_done(config: Mapping[str, Any], directory: Path) -> None:
    """Tell the user that there is nothing to do, and what came of it then."""
    if process_rank() == 0:
        kept = _kept_otherwise(config, directory)
        made = f" with {' '.join(kept)}" if kept else ""
        print(f"already finished{made}; pass overwrite=true to rerun: {directory}")
        summary = read_summary(directory)
        print_summary(summary, directory, list(summary["evaluators"]))


def _kept_otherwise(config: Mapping[str, Any], directory: Path) -> list[str]:
    """What a finished run kept of its images, where more or less is asked for now."""
    examples = read_config(directory).get("examples", config["examples"])
    found = [] if examples == config["examples"] else [f"examples={examples}"]
    if config["maps"] == "keep" and not kept_maps_folder(directory).is_dir():
        found.append("maps=discard")
    return found


def _check_choices(config: Mapping[str, Any]) -> None:
    for key, allowed in _CHOICES.items():
        if config[key] not in allowed:
            raise unknown_choice(key, config[key], allowed)
    for key, least in (("examples", 0), ("resamples", 1), ("block_size", 1)):
        if config[key] is not None and config[key] < least:
            raise UserError(f"Expected `{key}` to be at least {least}, but got {config[key]}")


def _missing(config: Mapping[str, Any], directory: Path) -> list[str]:
    """The labels of the evaluators whose rows are not there yet, or were damaged."""
    known = read_summary(directory).get("evaluators", {}) if is_finished(directory) else {}
    missing = []
    for label in config["labels"].values():
        path = rows_path(directory, label)
        if label in known and not is_readable(path):
            log.warning("%s is truncated or missing: rebuilding it", path)
        if label not in known or not is_readable(path):
            missing.append(label)
    return missing


def _begun(
    config: Mapping[str, Any], directory: Path, stack: contextlib.ExitStack
) -> Sequence[str]:
    """The evaluators that have work to do, with the directory held and begun; none: all is done."""
    if is_done(config, directory):
        return ()
    stack.enter_context(held(directory))
    if is_done(config, directory):
        return ()  # by the process that held it until now
    labels = list(config["labels"].values()) if config["overwrite"] else _missing(config, directory)
    if config["overwrite"]:
        others = set(read_summary(directory).get("evaluators", {})) - set(labels)
        if others:
            named = ", ".join(sorted(others))
            log.warning("overwrite=true begins the whole run anew: %s goes, too", named)
    elif is_finished(directory):
        stack.enter_context(refusable(directory))
    begin_evaluation(config, directory, labels)
    return labels


def _evaluated(
    config: Mapping[str, Any],
    directory: Path,
    trainer: pl.Trainer,
    method: Method,
    evaluators: Mapping[str, Evaluator],
    record: Record | None,
) -> None:
    began = time.monotonic()
    model = configured_classifier(config)
    asked, model = pair_classifier(config, method, model)
    data = data_module(asked)
    _require_same_classes(model, data)
    block = block_size(config["block_size"], data.input_shape, trainer.strategy.root_device)
    data.eval_split, data.eval_batch_size = config["split"], block
    data.download()
    data.setup("test")
    require_unseen(model, data, config["split"])
    _require_same_images(directory, data)
    controls = any("support" in evaluator.needs for evaluator in evaluators.values())
    device = trainer.strategy.root_device
    method = supported(asked, method, model, device, controls=controls)
    networks = retrained(asked, method, model, data, evaluators, trainer)
    method = with_stored_maps(method, data.ids(config["split"]), data.input_shape)
    plan = _plan(config, directory, data, method, evaluators, block, networks)
    finished = agreed(trainer, lambda: _done_blocks(plan))
    data.done_blocks = lambda: finished
    count = plan.shards[MAPS].count
    if finished:
        log.info("resuming: %d of %d blocks already done", len(finished), count)
    examples = read_config(directory)["examples"]
    if trainer.is_global_zero and examples != config["examples"]:
        log.info("keeping examples=%d, as this run began; overwrite=true begins anew", examples)
    if trainer.world_size > 1 and trainer.is_global_zero:
        left = count - len(finished)
        log.info("distributing %d blocks over %d processes", left, trainer.world_size)
    if finished:
        plan.earlier.update(plan.shards[MAPS].meta(finished[-1])["engine"])  # type: ignore[attr-defined]
    # The trainer is older than what it calls: its processes had to agree on the blocks first.
    trainer.callbacks.append(EvaluationLoop(plan))  # type: ignore[attr-defined]
    looped = time.monotonic()
    trainer.test(MeasuredNetwork(model.network), datamodule=data, verbose=False)
    trainer.strategy.barrier()
    if not trainer.is_global_zero:
        return
    images = len(data.ids(config["split"])) - sum(_block_images(plan, n) for n in finished)
    log.info("%s images/s in the test loop", rate_text(images / (time.monotonic() - looped)))
    seconds = time.monotonic() - began + _measuring_seconds(plan, finished)
    summary = write_results(config, directory, plan, seconds)
    record_evaluation(record, summary, directory)
    for shards in plan.shards.values():
        shards.clear()
    with contextlib.suppress(OSError):
        shards_folder(directory, MAPS).parent.rmdir()


def _plan(
    config: Mapping[str, Any],
    directory: Path,
    data: ImageData,
    method: Method,
    evaluators: Mapping[str, Evaluator],
    block: int,
    networks: Retrained | None,
) -> Plan:
    split, seed = config["split"], int(config["seed"])
    size = len(data.ids(split))
    shards = {
        label: Shards(shards_folder(directory, label), size, block) for label in (MAPS, *evaluators)
    }
    kept_folder = kept_maps_folder(directory)
    keeps = config["maps"] == "keep" or kept_folder.is_dir()
    chosen = np.random.default_rng(seed).permutation(size)[: read_config(directory)["examples"]]
    home = config["classifier"]["directory"]
    return Plan(
        evaluators=evaluators,
        shards=shards,
        method=method,
        engine=built(config["engine"], "engine"),
        data=data,
        split=split,
        seed=seed,
        on_nonfinite=config["on_nonfinite"],
        kept_maps=KeptMaps(kept_folder, method.views) if keeps else None,
        examples=frozenset(chosen.tolist()),
        training=None if home is None else Path(home),
        retrained=networks,
        earlier={},
    )


def _done_blocks(plan: Plan) -> list[int]:
    """Blocks that need no work. Those of other images than are there now are removed."""
    own, images = plan.shards[MAPS], plan.data.split(plan.split)
    changed = [n for n in own.done() if not own.is_of(n, images.ids, images.content)]
    if changed:
        count = f"{len(changed)} block{'' if len(changed) == 1 else 's'}"
        log.warning("the images have changed since this run began: redoing %s", count)
    for number in changed:
        for shards in plan.shards.values():
            shards.discard(number)
    done = [set(shards.done()) for shards in plan.shards.values()]
    return sorted(set.intersection(*done))


def _block_images(plan: Plan, number: int) -> int:
    return cast(int, plan.shards[MAPS].meta(number)["images"])


def _measuring_seconds(plan: Plan, blocks: Sequence[int]) -> float:
    """What an earlier start of this run took for these blocks, its processes' seconds added up."""
    found = [
        shards.meta(number)["cost"][stage]["seconds"]
        for stage, shards in plan.shards.items()
        for number in blocks
    ]
    return float(sum(found))


def _require_same_images(directory: Path, data: ImageData) -> None:
    """Refuse further evaluators beside those that a finished run measured on other images."""
    known = read_summary(directory)
    split = changed_split(data, known["data"]) if known.get("evaluators") else None
    if split is not None:
        raise UserError(
            f"Expected the {split} images that {', '.join(known['evaluators'])} of this run "
            "measured, but they have changed; overwrite=true measures all of it anew"
        )


def _require_same_classes(model: Classifier, data: ImageData) -> None:
    trained, given = tuple(model.facts["classes"]), data.class_names
    if trained != given:
        raise UserError(
            f"Expected `data` to have the {len(trained)} classes that the checkpoint was trained "
            f"on ({', '.join(trained[:3])}, …), but got {len(given)} ({', '.join(given[:3])}, …)"
        )
