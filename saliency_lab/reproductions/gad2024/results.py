"""Records, figures and page of the reproduction of GAD, from finished runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saliency_lab.evaluation.hull.tables import BOTH
from saliency_lab.report.drawing.figures import figure_bytes
from saliency_lab.reproductions.gad2024.figures import attribution_figure, hull_figure
from saliency_lab.reproductions.gad2024.grid import (
    FIGURE_SOURCE,
    KEPT,
    PAPER,
    SOURCES,
    TRAIN,
    WHOLE,
)
from saliency_lab.reproductions.gad2024.page import page_text
from saliency_lab.runs.directory import read_summary
from saliency_lab.runs.files import atomic_path, write_json, write_text

log = logging.getLogger(__name__)

REMARKS = "-remarks.md"


@dataclass(frozen=True)
class Column:
    """One pair of classes and network: its finished runs by kind, and every command of it."""

    name: str
    runs: Mapping[str, Path]
    commands: tuple[str, ...]
    departures: tuple[str, ...] = ()
    """Settings that are not the experiment's own, as they were given."""

    @property
    def measured(self) -> bool:
        """Whether any source was."""
        return any(source in self.runs for source in SOURCES)


TABLE = ("column", "source", "RC < 1", "RC gad", "RC retraining", "RC random", "RC top",
         "RS gad / supplementary", "/ retraining", "/ random", "/ top")  # fmt: skip


def table_rows(column: Column) -> Iterator[list[object]]:
    """A line per source, both classes together, with the names of TABLE."""
    for source, found in record(column)["sources"].items():
        masks = {row["mask"]: row for row in found["facts"]["masks"] if row["label"] == BOTH}
        gad = masks["gad"]
        if "relative_complexity" not in gad:
            continue
        others = [masks[name] for name in ("supplementary", "retraining", "random_subset", "top")]
        yield [
            column.name,
            source,
            gad["share_smaller"],
            gad["relative_complexity"],
            *(other["relative_complexity"] for other in others[1:]),
            *(gad["relative_sensitivity"] / other["relative_sensitivity"] for other in others),
        ]


def record(column: Column) -> dict[str, Any]:
    """Everything about a column that the page is made from, as plain containers."""
    sources = {}
    for source in SOURCES:
        if source not in column.runs:
            continue
        summary = read_summary(column.runs[source])
        hull = next(e for e in summary["evaluators"].values() if e["name"] == "hull")
        sources[source] = {
            "facts": hull["facts"],
            "images": summary["data"]["images"],
            "accuracy": summary["accuracy"],
            "seconds": round(summary["seconds"], 1),
        }
        known = summary
    trained = read_summary(column.runs[TRAIN]) if TRAIN in column.runs else {}
    environment = json.loads(
        (next(iter(column.runs.values())) / "environment.json").read_text(encoding="utf-8")
    )
    return {
        "column": column.name,
        "data": known["data"]["name"],
        "model": known["model"]["name"],
        "classes": known["data"]["classes"],
        "training": {
            name: trained[name] for name in ("epochs", "test", "train") if name in trained
        },
        "sources": sources,
        "environment": {name: environment.get(name) for name in ("cpu", "gpu", "commit")},
        "departures": list(column.departures),
        "commands": list(column.commands),
    }


def write_reproduction(columns: Sequence[Column], place: Path) -> Path:
    """Write `results/gad2024/*.json|png` below a folder, and `gad.md` from all that lie there.

    Columns that were published earlier stay on the page. What a person has to say of a column,
    in `results/gad2024/COLUMN-remarks.md`, is shown below its numbers.

    Returns:
        The page's path.
    """
    results = place / "results" / PAPER
    for column in columns:
        write_json(results / f"{column.name}.json", record(column))
        if KEPT in column.runs and WHOLE in column.runs:
            _write_figures(column, results)
    records, remarks, figures = [], {}, {}
    for path in sorted(results.glob("*.json")):
        records.append(json.loads(path.read_text(encoding="utf-8")))
        said = results / f"{path.stem}{REMARKS}"
        if said.is_file():
            remarks[path.stem] = said.read_text(encoding="utf-8").strip()
        drawn = sorted(results.glob(f"{path.stem}-*.png"))
        figures[path.stem] = [file.relative_to(place).as_posix() for file in drawn]
    page = place / "gad.md"
    write_text(page, page_text(records, remarks, figures))
    return page


def _write_figures(column: Column, results: Path) -> None:
    kept, whole = (_maps(column.runs[kind]) for kind in (KEPT, WHOLE))
    if kept["ids"].tolist() != whole["ids"].tolist():
        log.warning("%s: the maps to draw are not of the same images; no figures", column.name)
        return
    drawings = {"hulls": hull_figure, "attributions": attribution_figure}
    title = f"{column.name} · GAD of {FIGURE_SOURCE}"
    for name, draw in drawings.items():
        figure = draw(kept["images"], whole["maps"], kept["maps"], title)
        with atomic_path(results / f"{column.name}-{name}.png") as path:
            path.write_bytes(figure_bytes(figure, "png", dpi=110))


def _maps(directory: Path) -> dict[str, Any]:
    """Images uint8 (N, H, W, C), their maps (N, H, W) and ids from an explanation."""
    with np.load(directory / "maps.npz", allow_pickle=False) as stored:
        name = next(name for name in stored.files if name not in ("images", "ids"))
        return {
            "images": stored["images"].transpose(0, 2, 3, 1),
            "maps": stored[name],
            "ids": stored["ids"],
        }
