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

from saliency_lab.config.binding import bound_arguments, built
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError
from saliency_lab.evaluators.deletion import DeletionEvaluator, DeletionSettings, Method
from saliency_lab.evaluators.parts import Parts
from saliency_lab.evaluators.results import (
    area_table,
    comparisons,
    curve_table,
    image_areas,
    mean_cost,
)
from saliency_lab.metrics.statistics import accuracy_interval
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.report.figures import curves_figure, figure_bytes
from saliency_lab.report.palette import label_of
from saliency_lab.report.terminal import print_table
from saliency_lab.runs.directory import begin, finish, held, is_finished, read_summary
from saliency_lab.runs.files import atomic_path
from saliency_lab.runs.processes import process_rank
from saliency_lab.tasks.components import checked, data_module, lightning_trainer, tracker
from saliency_lab.tasks.trained import trained_checkpoint

log = logging.getLogger(__name__)


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Measure the maps that the configuration names, or go on where a killed run stopped.

    Raises:
        UserError: no trained classifier, wrong settings, or data that is not the classifier's.
    """
    checked(config)
    method = configured_method(config)
    settings = built(config["evaluator"], "evaluator")
    checkpoint = trained_checkpoint(config)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    before = read_summary(directory).get("checkpoint", {}).get("sha256")
    if is_finished(directory) and not config["overwrite"] and before == digest:
        print(f"finished already (overwrite=true starts anew): {directory}")
        _show(read_summary(directory), directory)
        return
    guard = held(directory) if process_rank() == 0 else contextlib.nullcontext()
    with guard:
        known = {"path": str(checkpoint), "sha256": digest}
        if process_rank() == 0:
            stale = before not in (None, digest)
            if stale:
                log.info("the checkpoint has changed since %s was made: starting anew", directory)
            begin(directory, config, overwrite=config["overwrite"] or stale, checkpoint=known)
        with tracker(config).run(config, directory) as record:
            _evaluated(config, directory, method, settings, known, record)


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
    method: Method,
    settings: DeletionSettings,
    checkpoint: dict[str, Any],
    record: Any,
) -> None:
    began = time.monotonic()
    model = load_classifier(Path(checkpoint["path"]))
    data = data_module(config)
    _require_same_classes(model, data)
    data.eval_split, data.eval_batch_size = settings.split, settings.batch_size
    data.download()
    data.setup("test")
    ids = data.ids(settings.split)
    parts = Parts(directory, len(ids), settings.batch_size)
    finished = parts.done()
    data.done_blocks = lambda: finished
    if finished:
        log.info("going on: %d of %d blocks are done", len(finished), -(-len(ids) // parts.block))
    kept = np.random.default_rng(config["seed"]).permutation(len(ids))[: settings.examples]
    evaluator = DeletionEvaluator(settings, method, parts, kept, int(config["seed"]))
    trainer = lightning_trainer(config, directory, [evaluator])
    trainer.test(model, datamodule=data, verbose=False)
    trainer.strategy.barrier()
    if not trainer.is_global_zero:
        return
    summary = _results(config, directory, data, settings, method, parts)
    summary["checkpoint"] = checkpoint
    summary["seconds"] = time.monotonic() - began
    if record is not None:
        _log(record, summary, directory)
    finish(directory, summary)
    parts.clear()
    _show(summary, directory)


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
    _write_table(rows, directory / "rows.parquet")
    _write_table(areas, directory / "areas.parquet")
    with atomic_path(directory / "curves.csv") as path:
        curves.to_csv(path, index=False)
    examples = parts.examples()
    if examples:
        with atomic_path(directory / "examples.npz") as path:
            np.savez_compressed(path, **examples)
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
        "skipped": {"nonfinite": sum(len(meta["skipped"]) for meta in metas)},
    }


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _log(record: Any, summary: Mapping[str, Any], directory: Path) -> None:
    import wandb

    record.summary["accuracy"] = summary["accuracy"]["value"]
    for row in summary["areas"]:
        record.summary["/".join(["area", *(row[k] for k in ("view", "mode", "fill", "score"))])] = (
            row["area"]
        )
    record.log({"curves": wandb.Image(str(directory / "figures" / "curves.png"))})


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
    print_table(title, ["map", "mode", "fill", "area", "95 %", "images"], rows, wrote=directory)
