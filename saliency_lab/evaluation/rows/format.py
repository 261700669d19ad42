"""What an evaluation leaves on disk: the names of its files and the shape of its summary.

A run directory holds, for each evaluator, `LABEL.parquet` (its rows), tables `LABEL-NAME.csv` and,
where an image's scores are computed from several rows, `scores/LABEL.parquet`. Written by the
evaluate task, read by the report; both know it from here alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

FORMAT = 2
"""Raised whenever an older reader would misread a newer run, or the other way round."""

EXAMPLES = "examples.npz"
COMPLETENESS = "completeness.csv"
ESTIMATE = "estimate.csv"
IMAGE_COLUMNS = ("sample_id", "index", "label", "method", "view")
_SCORES, _SHARDS, _MAPS = "scores", "shards", "maps"


def rows_path(directory: Path, label: str) -> Path:
    """An evaluator's rows."""
    return directory / f"{label}.parquet"


def scores_path(directory: Path, label: str) -> Path:
    """An evaluator's scores per image, where they are not its rows."""
    return directory / _SCORES / f"{label}.parquet"


def table_path(directory: Path, label: str, name: str) -> Path:
    """One of an evaluator's further tables."""
    return directory / f"{label}-{name}.csv"


def figure_path(directory: Path, label: str, name: str) -> Path:
    """One of an evaluator's figures of this run."""
    return directory / "figures" / f"{label}-{name}.png"


def shards_folder(directory: Path, label: str) -> Path:
    """Where an evaluator's blocks lie until all are done."""
    return directory / _SHARDS / label


def kept_maps_folder(directory: Path) -> Path:
    """Where `maps=keep` keeps the maps of every image."""
    return directory / _MAPS


class Interval(BaseModel):
    """A share with its confidence interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Data(BaseModel):
    """Which images were measured, or trained on."""

    name: str
    split: str = "test"
    images: int | dict[str, int] | None = None
    classes: list[str] = []
    fingerprint: str = ""
    pixels: dict[str, str] = {}


class Model(BaseModel):
    """Which network."""

    name: str
    parameters: int | None = None


class ScoreFacts(BaseModel):
    """What an evaluator declares of a score."""

    name: str
    better: Literal["higher", "lower"] | None = None
    low: float | None = None
    high: float | None = None


class Mean(BaseModel):
    """The mean of a score over images, of one map under one condition."""

    method: str
    view: str
    condition: dict[str, str] = {}
    score: str
    better: Literal["higher", "lower"] | None = None
    value: float
    low: float
    high: float
    images: int


class Side(BaseModel):
    """One map of a comparison."""

    method: str
    view: str


class Comparison(BaseModel):
    """Two maps on the same images under one condition: a − b of the main score."""

    a: Side
    b: Side
    condition: dict[str, str] = {}
    score: str
    better: Literal["higher", "lower"] | None = None
    difference: float
    low: float
    high: float
    p: float | None = None
    p_holm: float | None = None


class EvaluatorSummary(BaseModel):
    """What one evaluator says of a run."""

    name: str
    settings: dict[str, Any] = {}
    selects: list[str] = []
    conditions: list[str] = []
    scores: list[ScoreFacts]
    role: str = "measure"
    tested: bool = True
    sections: str | None = None
    means: list[Mean]
    comparisons: list[Comparison] = []
    facts: dict[str, Any] = {}
    cost: dict[str, float] = {}


class EvaluationSummary(BaseModel):
    """summary.json of a finished evaluation."""

    format: int
    status: Literal["finished"]
    data: Data
    model: Model
    seed: int
    method: str = ""
    views: list[str] = []
    control: bool = False
    checkpoint: dict[str, Any] | None = None
    accuracy: Interval | None = None
    evaluators: dict[str, EvaluatorSummary]
    cost: dict[str, float] = {}
    skipped: dict[str, Any] = {}
    warnings: list[str] = []
    running: list[str] = []
    seconds: float = 0.0


class ComparedPair(BaseModel):
    """How a comparison of two maps ended; `sentence` says it in words."""

    a: str
    b: str
    condition: dict[str, str] = {}
    verdict: Literal["a", "b", "undecided"]
    images: int
    difference: float
    low: float
    high: float
    sentence: str


class ComparisonSummary(BaseModel):
    """summary.json of a finished comparison that stopped itself."""

    status: Literal["finished"]
    data: Data
    model: Model
    seed: int
    evaluator: str
    score: ScoreFacts
    remark: str
    caution: str | None = None
    pairs: list[ComparedPair]


class TrainingSummary(BaseModel):
    """summary.json of a finished training."""

    status: Literal["finished"]
    data: Data
    model: Model
    seed: int
    epochs: int | None = None
    test: dict[str, Any] = {}
    train: dict[str, Any] = {}
    best: dict[str, Any] | None = None
    confusion: list[list[int]] | None = None
    seconds: float = 0.0


def read_rows(directory: Path, label: str, sample_ids: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of an evaluator: all of them, or those of some images."""
    chosen = None if sample_ids is None else pc.field("sample_id").isin(list(sample_ids))
    return pq.read_table(rows_path(directory, label), filters=chosen).to_pandas()


def read_scores(directory: Path, label: str) -> pd.DataFrame:
    """An evaluator's scores: one row per image, method, view and condition."""
    return pq.read_table(scores_file(directory, label)).to_pandas()


def scores_file(directory: Path, label: str) -> Path:
    """The file that an evaluator's scores are in: one of their own, or its rows."""
    path = scores_path(directory, label)
    return path if path.is_file() else rows_path(directory, label)


def is_readable(path: Path) -> bool:
    """Whether a Parquet file is there and whole as far as its end tells."""
    try:
        pq.read_schema(path)
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return False
    return True


def older_format(directory: Path) -> str | None:
    """Why an evaluation cannot be read by this version, in one line; None if it can."""
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = summary.get("format", 1) if summary.get("task") == "evaluate" else FORMAT
    if found == FORMAT:
        return None
    age = "an older" if found < FORMAT else "a newer"
    return f"made by {age} version of the program (format {found}, this one reads {FORMAT})"
