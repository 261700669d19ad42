"""What an evaluation leaves in its run directory, from its beginning to its summary."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.loop import MAPS, Plan
from saliency_lab.evaluation.rows.aggregation import (
    comparisons,
    completeness_table,
    conditions_of,
    estimate_table,
    mean_cost,
    score_means,
)
from saliency_lab.evaluation.rows.format import (
    COMPLETENESS,
    ESTIMATE,
    EXAMPLES,
    FORMAT,
    figure_path,
    rows_path,
    scores_path,
    table_path,
)
from saliency_lab.evaluation.rows.intervals import accuracy_interval
from saliency_lab.report.drawing.figures import figure_bytes
from saliency_lab.runs.directory import (
    CONFIG,
    begin,
    finish,
    is_finished,
    read_config,
    read_summary,
    say_running,
)
from saliency_lab.runs.files import atomic_path, write_text
from saliency_lab.tasks.classifiers import told_checkpoint

log = logging.getLogger(__name__)


def begin_evaluation(config: Mapping[str, Any], directory: Path, labels: Sequence[str]) -> None:
    """Prepare a held directory: anew, or for further evaluators beside those that are there."""
    checkpoint = told_checkpoint(config)
    stored = {} if config["overwrite"] else read_config(directory)
    # Arrays of examples lie beside each other, so all must be of the same images.
    config = {**config, "examples": stored.get("examples", config["examples"])}
    if config["overwrite"] or not is_finished(directory):
        begin(directory, config, overwrite=config["overwrite"], checkpoint=checkpoint)
        return
    both = {key: {**stored.get(key, {}), **config[key]} for key in ("evaluator", "labels")}
    write_text(directory / CONFIG, yaml.safe_dump({**config, **both}, sort_keys=False))
    say_running(directory, labels)


def write_results(
    config: Mapping[str, Any], directory: Path, plan: Plan, seconds: float
) -> dict[str, Any]:
    """Merge the shards, write every evaluator's rows, scores and tables, and the summary."""
    intact = plan.shards[MAPS].rows()
    if intact.empty:
        raise UserError("Expected at least one image with finite maps, but all were skipped")
    metas = list(plan.shards[MAPS].metas())
    before = read_summary(directory)
    maps_cost = {f"maps_{name}": value for name, value in mean_cost(metas, MAPS).items()}
    written = {
        label: _written(config, directory, plan, label, maps_cost) for label in plan.evaluators
    }
    _write_examples(directory, plan)
    completeness, estimate = completeness_table(metas), estimate_table(metas)
    for table, name in ((completeness, COMPLETENESS), (estimate, ESTIMATE)):
        if len(table):
            with atomic_path(directory / name) as path:
                table.to_csv(path, index=False)
    correct = int((intact["prediction"] == intact["label"]).sum())
    data, classes = plan.data, list(plan.data.class_names)
    accuracy = accuracy_interval(correct, len(intact))
    summary = {
        "task": "evaluate",
        "format": FORMAT,
        "data": {
            "name": data.name,
            "split": plan.split,
            "images": len(intact),
            "classes": classes,
            "fingerprint": data.fingerprint(plan.split),
            "pixels": {plan.split: data.content(plan.split)},
        },
        "model": {"name": config["model"]["name"]},
        "seed": config["seed"],
        "method": plan.method.name,
        "views": list(plan.method.views),
        "control": bool(config["method"].get("control", False)),
        "checkpoint": told_checkpoint(config),
        "accuracy": accuracy._asdict(),
        "warnings": [
            *_warnings(intact, accuracy.low, len(classes)),
            *_missed(estimate, config["method"].get("error")),
        ],
        "evaluators": {**before.get("evaluators", {}), **written},
        "completeness": _completeness_summary(completeness),
        "estimate": _estimate_summary(estimate, config["method"].get("error")),
        "engine": metas[-1]["engine"],
        "skipped": {"nonfinite": sum(len(meta["skipped"]) for meta in metas)},
        "seconds": before.get("seconds", 0.0) + seconds,
    }
    finish(directory, summary)
    return summary


def _written(
    config: Mapping[str, Any],
    directory: Path,
    plan: Plan,
    label: str,
    maps_cost: Mapping[str, float],
) -> dict[str, Any]:
    """Write what an evaluator measured; its entry of the summary."""
    evaluator, shards = plan.evaluators[label], plan.shards[label]
    rows, resamples = shards.rows(), int(config["resamples"])
    if rows.empty:
        raise UserError(
            f"Expected evaluator {label} to measure at least one image, but it measured none"
        )
    scores = evaluator.image_scores(rows)
    _write_table(rows, rows_path(directory, label))
    if scores is not rows:
        _write_table(scores, scores_path(directory, label))
    tables = evaluator.tables(rows, resamples)
    for name, table in tables.items():
        with atomic_path(table_path(directory, label, name)) as path:
            table.to_csv(path, index=False)
    title = f"{plan.data.name} · {config['model']['name']} · {plan.split}"
    for name, figure in _figures(evaluator, tables, title).items():
        with atomic_path(figure_path(directory, label, name)) as path:
            path.write_bytes(figure_bytes(figure, "png"))
    name = next(name for name, own in config["labels"].items() if own == label)
    return {
        "name": name,
        "settings": dict(config["evaluator"][name]),
        "selects": list(evaluator.selects),
        "conditions": conditions_of(evaluator),
        "scores": [
            {"name": s.name, "better": s.better, "low": s.low, "high": s.high}
            for s in evaluator.scores
        ],
        "role": evaluator.role,
        "tested": evaluator.tested,
        "sections": evaluator.sections,
        "means": score_means(evaluator, scores, resamples),
        "comparisons": comparisons(evaluator, scores, resamples),
        "facts": evaluator.facts(rows, scores),
        "cost": {**maps_cost, **mean_cost(list(shards.metas()), label)},
    }


def _figures(
    evaluator: Evaluator, tables: Mapping[str, pd.DataFrame], title: str
) -> dict[str, Figure]:
    if evaluator.sections is None:
        return {}
    drawn: dict[str, Figure] = importlib.import_module(evaluator.sections).run_figures(
        tables, title
    )
    return drawn


def _write_examples(directory: Path, plan: Plan) -> None:
    """The example images with their maps, and what evaluators keep of them beside."""
    arrays: dict[str, NDArray[Any]] = {}
    if (directory / EXAMPLES).is_file():
        with np.load(directory / EXAMPLES, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    arrays |= plan.shards[MAPS].examples()
    for label in plan.evaluators:
        own = plan.shards[label].examples()
        arrays |= {f"{label}|{name}": array for name, array in own.items()}
    if arrays:
        with atomic_path(directory / EXAMPLES) as path:
            np.savez_compressed(path, allow_pickle=False, **arrays)


def _warnings(intact: pd.DataFrame, low: Any, classes: int) -> list[str]:
    """What makes any measure of this classifier's maps worthless."""
    found = []
    if classes > 1 and intact["prediction"].nunique() == 1 and len(intact) > 1:
        found.append(
            "the classifier predicts the same class for every image, so its predictions survive "
            "any deletion and the areas say nothing about the maps"
        )
    elif classes > 1 and float(low) <= 1 / classes:
        share = (intact["prediction"] == intact["label"]).mean()
        found.append(
            f"the classifier's accuracy, {share:.3f}, is not above chance (1/{classes}): its maps "
            "explain guesses"
        )
    return found


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


def _estimate_summary(table: pd.DataFrame, asked: float | None) -> dict[str, float | None] | None:
    """Errors and rounds over images; None where the method says nothing of them."""
    if table.empty:
        return None
    return {
        "asked": asked,
        "median_error": float(table["error"].median()),
        "max_error": float(table["error"].max()),
        "mean_rounds": float(table["rounds"].mean()),
        "max_rounds": int(table["rounds"].max()),
    }


def _missed(estimate: pd.DataFrame, asked: float | None) -> list[str]:
    """Images whose maps are less exact than was asked for, after as many rounds as were allowed."""
    beyond = 0 if asked is None else int((estimate["error"] > asked).sum())
    if not beyond:
        return []
    return [
        f"{beyond} of {len(estimate)} images miss the error asked for, {asked}, after "
        f"{estimate['rounds'].max()} rounds: see {ESTIMATE}, or raise method.most"
    ]


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)
