"""The files of an evaluation: seen to be whole when a run is read, read when they are needed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import saliency_lab
from saliency_lab.evaluation.rows.format import (
    EvaluatorSummary,
    is_readable,
    read_scores,
    rows_path,
    scores_file,
)

EXAMPLE_ARRAYS = ("ids", "labels", "predictions", "images")

OfFile = Callable[[Callable[[Path], Any], Path], Any]
"""What a function reads from a file, maybe known from before."""


def anew(function: Callable[[Path], Any], path: Path) -> Any:
    """What a function reads from a file, read now."""
    return function(path)


def require_whole(path: Path, label: str, found: EvaluatorSummary, of_file: OfFile) -> None:
    """Refuse an evaluator whose files, which the page reads only later, are damaged or gone."""
    if not is_readable(rows_path(path, label)):
        raise ValueError(f"{rows_path(path, label).name} is missing or damaged")
    of_file(_count_of_rows, rows_path(path, label))
    held = of_file(_score_columns, scores_file(path, label))
    if missing := set(_score_names(found)) - set(held):
        raise ValueError(f"{label} lacks the columns {', '.join(sorted(missing))}")
    tables = sorted(path.glob(f"{label}-*.csv"))
    if found.sections is not None and not tables:
        raise ValueError(f"{label} lacks the tables that its figures are drawn from")
    for table in tables:
        columns, rows, whole = of_file(_form_of, table)
        # What the tables of an evaluator from elsewhere hold is its own affair.
        own = found.sections is not None and found.sections.startswith(f"{saliency_lab.__name__}.")
        if own and not (rows and {"method", "view"} <= set(columns)):
            raise ValueError(f"{table.name} is damaged: it has no rows of a method and a view")
        if own and not whole:
            raise ValueError(f"{table.name} is damaged: it was cut off or holds zeros")


def shown_scores(path: Path, label: str, found: EvaluatorSummary) -> pd.DataFrame:
    """An evaluator's scores with the columns that a page shows, names as text."""
    texts = ["sample_id", "method", "view", *found.conditions]
    return read_scores(path, label)[_score_names(found)].astype(dict.fromkeys(texts, str))


def checked_example_ids(path: Path) -> list[str]:
    """The ids of the kept examples, after checking that all of their file can be read."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{path.name}: {damaged} is damaged")
    with np.load(path, allow_pickle=False) as stored:
        if missing := set(EXAMPLE_ARRAYS) - set(stored.files):
            raise ValueError(f"{path.name} lacks {', '.join(sorted(missing))}")
        return [str(name) for name in stored["ids"]]


def checked_metrics(path: Path) -> pd.DataFrame:
    """A finished training's metrics, numbers of one epoch or more."""
    table = pd.read_csv(path)
    numbers = all(pd.api.types.is_numeric_dtype(table[column]) for column in table)
    if not ("epoch" in table and len(table) and numbers and _is_whole(path)):
        raise ValueError(f"{path.name} is damaged: it has no epochs, or was cut off")
    return table


def _count_of_rows(path: Path) -> int:
    """How many rows an evaluator wrote, after reading all of them, a part after the other.

    Their end alone, which says where the parts are, may be whole in a file whose middle is not.
    """
    with pq.ParquetFile(path) as file:
        return sum(file.read_row_group(part).num_rows for part in range(file.num_row_groups))


def _score_columns(path: Path) -> list[str]:
    """The columns of an evaluator's scores, after reading all of them."""
    return list(pq.read_table(path).column_names)


def _form_of(path: Path) -> list[Any]:
    """A table's columns, how many rows it has, and whether it is whole, after reading all of it."""
    table = pd.read_csv(path)
    return [list(table.columns), len(table), _is_whole(path)]


def _is_whole(path: Path) -> bool:
    """Whether a table ends as it was written, and has nothing that a lost disk block leaves."""
    content = path.read_bytes()
    return content.endswith(b"\n") and b"\0" not in content


def _score_names(found: EvaluatorSummary) -> list[str]:
    names = ["sample_id", "method", "view", *found.conditions]
    return [*names, "label", *(score.name for score in found.scores)]
