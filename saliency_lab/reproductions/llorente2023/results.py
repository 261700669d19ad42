"""The reproduction page: each published cell beside ours, from finished runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saliency_lab.evaluation.rows.format import read_scores, table_path
from saliency_lab.evaluation.rows.intervals import Interval, accuracy_over_seeds, seeds_interval
from saliency_lab.report.drawing.figures import curves_figure, figure_bytes
from saliency_lab.reproductions.llorente2023.form import trained_model
from saliency_lab.reproductions.llorente2023.page import page_text
from saliency_lab.reproductions.llorente2023.workload import WORKLOADS
from saliency_lab.reproductions.published import Published, published, title_of
from saliency_lab.runs.directory import read_summary
from saliency_lab.runs.files import atomic_path, write_json, write_text

log = logging.getLogger(__name__)

CURVE = ["view", "mode", "fill"]
NOT_MEASURED = ("train", "grids")
REMARKS = "-remarks.md"
# What the page takes from a column's record.
RECORD = {
    "column",
    "title",
    "paper",
    "trainings",
    "evaluations",
    "environment",
    "departures",
    "commands",
}
FLAT = 0.01
"""A curve is flat from where less than this share of the pixels is still to be deleted."""


@dataclass(frozen=True)
class Place:
    """The directory of a run and, of an evaluation, the evaluator's label in it."""

    directory: Path
    label: str | None = None


@dataclass(frozen=True)
class Column:
    """One column of the paper: its finished runs by (kind, seed), and every command of it.

    Kinds are `train` (the training), `grids` (figures of maps), `test` and `train-split`
    (evaluations on these images), and further evaluations by their own names.
    """

    name: str
    runs: Mapping[tuple[str, int], Place]
    commands: tuple[str, ...]
    departures: tuple[str, ...] = ()
    """Settings that are not the experiment's own, as they were given."""

    @cached_property
    def summaries(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The summary of every run."""
        return {key: read_summary(place.directory) for key, place in self.runs.items()}

    def seeds(self, kind: str) -> list[int]:
        """The seeds that a kind was run with."""
        return sorted(seed for found, seed in self.runs if found == kind)

    @property
    def paper(self) -> Published | None:
        """What the paper prints."""
        summary = next(iter(self.summaries.values()))
        pretrained = self.name.endswith("_pretrained")
        return published(summary["data"]["name"], summary["model"]["name"], pretrained)

    @property
    def title(self) -> str:
        """What the column is called in text."""
        summary = next(iter(self.summaries.values()))
        pretrained = self.name.endswith("_pretrained")
        return title_of(summary["data"]["name"], summary["model"]["name"], pretrained)

    def areas(self, kind: str) -> dict[tuple[str, str, str], Interval]:
        """Allegiance area of each (view, mode, fill) over all seeds and images."""
        places = [self.runs[kind, seed] for seed in self.seeds(kind)]
        tables = [read_scores(place.directory, str(place.label)) for place in places]
        found: dict[tuple[str, str, str], Interval] = {}
        if not tables:
            return found
        groups = [dict(iter(table.groupby(CURVE, observed=True))) for table in tables]
        for key in groups[0]:
            tables = [
                group[key].set_index("sample_id")["allegiance"].sort_index() for group in groups
            ]
            values = [table.to_numpy() for table in tables]
            images = [table.index.tolist() for table in tables]
            found[key] = seeds_interval(values, images=images, lowest=0.0, highest=1.0)
        return found

    def curves(self, kind: str) -> pd.DataFrame:
        """The mean curves of a kind, of the first seed, with their bands."""
        place = self.runs[kind, self.seeds(kind)[0]]
        return pd.read_csv(table_path(place.directory, str(place.label), "curves"))

    def measured(self, kind: str, seed: int) -> dict[str, Any]:
        """What the evaluator said in the summary of a run."""
        place = self.runs[kind, seed]
        found: dict[str, Any] = self.summaries[kind, seed]["evaluators"][place.label]
        return found

    def accuracy(self) -> Interval | None:
        """Test accuracy, over seeds where there are several."""
        tests = [self.summaries["train", seed]["test"] for seed in self.seeds("train")]
        if not tests:
            return None
        return accuracy_over_seeds([test["accuracy"] for test in tests], tests[0]["images"])

    def comparison(self, split: str) -> Iterator[list[object]]:
        """Rows: quantity, the paper's number, ours, interval, difference."""
        paper, accuracy = self.paper, self.accuracy()
        if accuracy is not None and split == "test":
            yield _row("accuracy", paper.accuracy if paper else None, accuracy)
        for (view, mode, fill), area in self.areas(kind_of(split)).items():
            # The paper's numbers are of the test set; its appendix B has the training set's.
            known = paper.areas.get((fill, view)) if paper and split == "test" else None
            if mode == "deletion":
                yield _row(f"{fill}, {view}", known, area)


def kind_of(split: str) -> str:
    """The kind of run that measures a split."""
    return "train-split" if split == "train" else split


def write_reproduction(columns: Sequence[Column], place: Path) -> Path:
    """Write `results/*.json|csv|png` below a folder, and `reproduction.md` from all that lie there.

    Columns that were published earlier, perhaps with other settings, stay on the page. What a
    person has to say of a column, in `results/COLUMN-remarks.md`, is shown below its numbers.

    Returns:
        The page's path.
    """
    results = place / "results"
    for column in columns:
        write_json(results / f"{column.name}.json", _record(column))
        for kind in ("test", "train-split"):
            if column.seeds(kind):
                _write_curves(column, kind, results)
            else:  # what lies there is of an earlier training
                for old in results.glob(f"{_curves_name(column, kind)}.*"):
                    old.unlink()
    known = (results / f"{name}.json" for name in WORKLOADS)
    records = [record for path in known if path.is_file() and (record := _published(path))]
    remarks = {
        path.name.removesuffix(REMARKS): path.read_text(encoding="utf-8").strip()
        for path in sorted(results.glob(f"*{REMARKS}"))
    }
    page = place / "reproduction.md"
    write_text(page, page_text(records, remarks))
    return page


def _published(path: Path) -> dict[str, Any] | None:
    """What was published of a column; None, and said so, where this version cannot show it."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        log.warning("%s is corrupt (%s) and was left out; publish that column again", path, error)
        return None
    missing = sorted(RECORD - record.keys())
    if missing:
        lacks = ", ".join(missing)
        log.warning("%s lacks %s and was left out; publish that column again", path, lacks)
        return None
    return record


def _row(quantity: str, known: float | None, ours: Interval) -> list[object]:
    value = float(ours.value)
    interval = f"[{float(ours.low):.4f}, {float(ours.high):.4f}]"
    difference = None if known is None else value - known
    return [quantity, known, value, interval, difference]


def _record(column: Column) -> dict[str, Any]:
    """Everything about a column that the page is made from, as plain containers."""
    evaluations = {}
    for kind in dict.fromkeys(kind for kind, _ in column.runs if kind not in NOT_MEASURED):
        summaries = [column.summaries[kind, seed] for seed in column.seeds(kind)]
        measured = [column.measured(kind, seed) for seed in column.seeds(kind)]
        evaluations[kind] = {
            "seeds": column.seeds(kind),
            "images": summaries[0]["data"]["images"],
            "protocol": measured[0]["facts"]["protocol"],
            "areas": [
                {"view": v, "mode": m, "fill": f, "area": float(a.value), "low": float(a.low),
                 "high": float(a.high), "by_seed": _by_seed(measured, v, m, f)}
                for (v, m, f), a in column.areas(kind).items()
            ],
            "comparisons": [_flat_comparison(row) for row in measured[0]["comparisons"]],
            "ends": _ends(column.curves(kind)),
            "seconds": [round(summary["seconds"], 1) for summary in summaries],
        }  # fmt: skip
    paper = column.paper
    return {
        "column": column.name,
        "title": column.title,
        "paper": None if paper is None else {
            "accuracy": paper.accuracy,
            "areas": [{"fill": f, "view": v, "area": a} for (f, v), a in paper.areas.items()],
        },
        "trainings": [
            {"seed": seed, "environment": _environment(column.runs["train", seed].directory),
             **{k: column.summaries["train", seed][k] for k in (
                "epochs", "test", "train", "training_seconds")}}
            for seed in column.seeds("train")
        ],
        "evaluations": evaluations,
        "environment": _environment(next(iter(column.runs.values())).directory),
        "model": _trained_form(column),
        "departures": list(column.departures),
        "commands": list(column.commands),
    }  # fmt: skip


def _trained_form(column: Column) -> dict[str, Any]:
    """The settings of the network that the experiment names, as its first training had them."""
    seeds = column.seeds("train")
    if not seeds:
        return {}
    return trained_model(column.name, column.runs["train", seeds[0]].directory)


def _ends(curves: pd.DataFrame) -> list[dict[str, Any]]:
    """Of each curve: the fraction from which it deletes nothing more, and what is left there."""
    found = []
    for key, curve in curves.groupby(CURVE, sort=False):
        last = curve.iloc[-1]
        growing = np.flatnonzero(last["deleted"] - curve["deleted"] > FLAT)
        flat_from = curve["fraction"].iloc[growing[-1] + 1 if len(growing) else 0]
        found.append(
            {
                **dict(zip(CURVE, key, strict=True)),
                "flat_from": float(flat_from),
                "deleted": round(float(last["deleted"]), 5),
                "allegiance": round(float(last["allegiance"]), 5),
            }
        )
    return found


def _flat_comparison(row: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison with its condition among its own keys, as published files have it."""
    kept = ("a", "b", "difference", "low", "high", "p", "p_holm")
    found = {name: row[name] for name in kept}
    return {"a": found.pop("a"), "b": found.pop("b"), **row["condition"], **found}


def _by_seed(measured: Sequence[Mapping[str, Any]], view: str, mode: str, fill: str) -> list[float]:
    return [
        row["value"]
        for found in measured
        for row in found["means"]
        if row["view"] == view
        and row["condition"] == {"mode": mode, "fill": fill}
        and row["score"] == "allegiance"
    ]


def _environment(directory: Path) -> dict[str, Any]:
    found = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    kept = ("cpu", "gpu", "cores", "threads", "python", "commit")
    versions = {name: found["versions"].get(name) for name in ("torch", "timm", "saliency-lab")}
    return {**{name: found[name] for name in kept}, "versions": versions}


def _curves_name(column: Column, kind: str) -> str:
    return f"{column.name}-{kind}-curves"


def _write_curves(column: Column, kind: str, results: Path) -> None:
    curves = column.curves(kind)
    name = _curves_name(column, kind)
    with atomic_path(results / f"{name}.csv") as path:
        curves.round(5).to_csv(path, index=False)
    figure = curves_figure(curves, f"{column.title} · {kind}")
    with atomic_path(results / f"{name}.png") as path:
        path.write_bytes(figure_bytes(figure, "png", dpi=100))
