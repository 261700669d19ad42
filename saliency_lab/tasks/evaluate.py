"""Measure saliency maps of a trained classifier: `python -m saliency_lab evaluate`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl

from saliency_lab.config.binding import bound_arguments, built
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.evaluator import DeletionEvaluator, DeletionSettings, Method
from saliency_lab.evaluation.loop import Measured
from saliency_lab.evaluation.rows.results import (
    area_table,
    comparisons,
    completeness_table,
    curve_table,
    image_areas,
    mean_cost,
)
from saliency_lab.evaluation.rows.shards import Parts, readable
from saliency_lab.evaluation.rows.statistics import accuracy_interval
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.report.drawing.figures import curves_figure, figure_bytes
from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.drawing.terminal import print_table
from saliency_lab.runs.agreement import agreed
from saliency_lab.runs.directory import begin, finish, held, is_finished, read_summary
from saliency_lab.runs.files import atomic_path
from saliency_lab.runs.processes import process_rank
from saliency_lab.tasks.components import checked, tracker
from saliency_lab.tracking.records import record_evaluation
from saliency_lab.tracking.tracking import Record
from saliency_lab.training.components import data_module, lightning_trainer
from saliency_lab.training.lookup import trained_checkpoint

log = logging.getLogger(__name__)

ROWS = "rows.parquet"


def is_done(config: Mapping[str, Any], directory: Path) -> bool:
    """Whether the directory holds all that the configuration asks for.

    It does not where the classifier has been trained anew since, or the rows were damaged.
    """
    if config["overwrite"] or not is_finished(directory):
        return False
    measured = read_summary(directory).get("checkpoint", {}).get("sha256")
    return measured == _digest(trained_checkpoint(config)) and readable(directory / ROWS)


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Measure the maps that the configuration names, or go on where a killed run stopped.

    Raises:
        UserError: no trained classifier, wrong settings, or data that is not the classifier's.
    """
    checked(config)
    method = configured_method(config)
    settings = built(config["evaluator"], "evaluator")
    trainer = lightning_trainer(config, directory, [])
    with contextlib.ExitStack() as stack:
        checkpoint = agreed(trainer, lambda: _checkpoint_to_measure(config, directory, stack))
        if checkpoint is None:
            say_done(directory)
            return
        with tracker(config).run(config, directory) as record:
            _evaluated(config, directory, trainer, method, settings, checkpoint, record)
    if trainer.is_global_zero:
        _show(read_summary(directory), directory)


def say_done(directory: Path) -> None:
    """Tell the user that there is nothing to do, and what came of it then."""
    if process_rank() == 0:
        print(f"finished already (overwrite=true starts anew): {directory}")
        _show(read_summary(directory), directory)


def _checkpoint_to_measure(
    config: Mapping[str, Any], directory: Path, stack: contextlib.ExitStack
) -> dict[str, str] | None:
    """The classifier's file and digest, with the directory held and begun; None: all is done."""
    if is_done(config, directory):
        return None
    checkpoint = trained_checkpoint(config)
    stack.enter_context(held(directory))
    if is_done(config, directory):
        return None  # by the process that held it until now
    known = {"path": str(checkpoint), "sha256": _digest(checkpoint)}
    before = read_summary(directory).get("checkpoint", {}).get("sha256")
    stale = before not in (None, known["sha256"])
    if stale:
        log.info("the checkpoint has changed since %s was made: starting anew", directory)
    begin(directory, config, overwrite=config["overwrite"] or stale, checkpoint=known)
    return known


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def configured_method(config: Mapping[str, Any]) -> Method:
    """The method and views of a configuration, settings bound; refuses views it cannot give."""
    target, arguments = bound_arguments(
        config["method"], "method", ("model", "images", "targets", "generator")
    )
    source = functools.partial(target, **arguments)
    return Method.of(config["method"]["name"], source, config["view"])


def _evaluated(
    config: Mapping[str, Any],
    directory: Path,
    trainer: pl.Trainer,
    method: Method,
    settings: DeletionSettings,
    checkpoint: Mapping[str, str],
    record: Record | None,
) -> None:
    began = time.monotonic()
    model = load_classifier(Path(checkpoint["path"]))
    data = data_module(config)
    _require_same_classes(model, data)
    block = settings.block_size(data.input_shape, trainer.strategy.root_device)
    data.eval_split, data.eval_batch_size = settings.split, block
    data.download()
    data.setup("test")
    ids = data.ids(settings.split)
    parts = Parts(directory, len(ids), block)
    finished = agreed(trainer, parts.done)
    data.done_blocks = lambda: finished
    if finished:
        log.info("going on: %d of %d blocks are done", len(finished), parts.count)
    if trainer.world_size > 1 and trainer.is_global_zero:
        left = parts.count - len(finished)
        log.info("%d processes take %d blocks in turn", trainer.world_size, left)
    kept = np.random.default_rng(config["seed"]).permutation(len(ids))[: settings.examples]
    engine = built(config["engine"], "engine")
    earlier = parts.meta(finished[-1])["engine"] if finished else None
    evaluator = DeletionEvaluator(
        settings, method, engine, parts, kept, int(config["seed"]), earlier
    )
    # The trainer is older than what it calls: its processes had to agree on the blocks first.
    trainer.callbacks.append(evaluator)  # type: ignore[attr-defined]
    looped = time.monotonic()
    trainer.test(Measured(model.network), datamodule=data, verbose=False)
    trainer.strategy.barrier()
    if not trainer.is_global_zero:
        return
    rate = parts.images_left(finished) / (time.monotonic() - looped)
    log.info("%.1f images/s in the test loop", rate)
    summary = _results(config, directory, data, settings, method, parts)
    summary["checkpoint"] = dict(checkpoint)
    summary["seconds"] = time.monotonic() - began
    record_evaluation(record, summary, directory)
    finish(directory, summary)
    parts.clear()


def _require_same_classes(model: Classifier, data: ImageData) -> None:
    trained, given = tuple(model.facts["classes"]), data.class_names
    if trained != given:
        raise UserError(
            f"Expected `data` to have the {len(trained)} classes that the checkpoint was trained "
            f"on ({', '.join(trained[:3])}, …), but got {len(given)} ({', '.join(given[:3])}, …)"
        )


def _results(
    config: Mapping[str, Any],
    directory: Path,
    data: ImageData,
    settings: DeletionSettings,
    method: Method,
    parts: Parts,
) -> dict[str, Any]:
    """Merge the blocks, write rows, areas, curves, examples and the figure; the summary."""
    rows = parts.rows()
    if rows.empty:
        raise UserError("Expected at least one image with finite maps, but all were skipped")
    metas = list(parts.metas())
    areas = image_areas(rows)
    curves = curve_table(rows, settings.resamples)
    _write_table(rows, directory / ROWS)
    _write_table(areas, directory / "areas.parquet")
    with atomic_path(directory / "curves.csv") as path:
        curves.to_csv(path, index=False)
    completeness = completeness_table(metas)
    if len(completeness):
        with atomic_path(directory / "completeness.csv") as path:
            completeness.to_csv(path, index=False)
    examples = parts.examples()
    if examples:
        with atomic_path(directory / "examples.npz") as path:
            np.savez_compressed(path, allow_pickle=False, **examples)
    title = f"{data.name} · {config['model']['name']} · {settings.split}"
    with atomic_path(directory / "figures" / "curves.png") as path:
        path.write_bytes(figure_bytes(curves_figure(curves, title), "png"))
    first = rows.drop_duplicates("sample_id")
    intact = rows[rows["fraction"] == settings.fractions[0]].drop_duplicates("sample_id")
    accuracy = accuracy_interval(int((intact["prediction"] == intact["label"]).sum()), len(first))
    return {
        "task": "evaluate",
        "data": {
            "name": data.name,
            "split": settings.split,
            "images": len(first),
            "classes": list(data.class_names),
            "fingerprint": data.fingerprint(settings.split),
        },
        "model": {"name": config["model"]["name"]},
        "seed": config["seed"],
        "method": method.name,
        "views": list(method.views),
        "control": bool(config["method"].get("control", False)),
        "accuracy": accuracy._asdict(),
        "protocol": settings.protocol,
        "fractions": list(settings.fractions),
        "areas": area_table(areas, settings.resamples),
        "comparisons": comparisons(areas, settings.resamples),
        "cost": {f"{method.name}/{'+'.join(method.views)}": mean_cost(metas)},
        "completeness": _completeness_summary(completeness),
        "engine": metas[-1]["engine"],
        "skipped": {"nonfinite": sum(len(meta["skipped"]) for meta in metas)},
    }


def _completeness_summary(table: pd.DataFrame) -> dict[str, float] | None:
    """Errors over images beside the size of what they are errors of; None where none is claimed."""
    if table.empty:
        return None
    error = table["error"]
    return {
        "mean_error": float(error.mean()),
        "median_error": float(error.median()),
        "max_error": float(error.max()),
        "mean_change": float(table["change"].abs().mean()),
    }


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _show(summary: Mapping[str, Any], directory: Path) -> None:
    rows = [
        [
            label_of(row["method"], row["view"]),
            row["mode"],
            row["fill"],
            row["area"],
            f"[{row['low']:.4f}, {row['high']:.4f}]",
            summary["data"]["images"],
        ]
        for row in summary["areas"]
        if row["score"] == "allegiance"
    ]
    accuracy = summary["accuracy"]["value"]
    title = f"Area under the allegiance curve, accuracy {accuracy:.4f}"
    complete = summary.get("completeness")
    if complete:
        print(
            f"completeness: attributions miss their sum by {complete['mean_error']:.2g} on average "
            f"(at most {complete['max_error']:.2g}) of {complete['mean_change']:.3g} logits"
        )
    print_table(title, ["map", "mode", "fill", "area", "95 %", "images"], rows, wrote=directory)
