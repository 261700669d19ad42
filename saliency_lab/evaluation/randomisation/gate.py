"""What the rows of a randomisation say of each map: curves over layers, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from saliency_lab.evaluation.rows.intervals import bootstrap_interval, student_interval

Verdict = Literal["passed", "failed", "undecided"]

_IMAGE = ["sample_id", "index", "label"]
_MAP = ["method", "view"]
# The main similarity: it needs no scale and does not see the size of outliers.
_MAIN = "spearman"


def verdict(low: float, high: float, passed_below: float, failed_above: float) -> Verdict:
    """`failed` where a whole interval of similarity lies above `failed_above`, `passed` where it
    lies below `passed_below`, `undecided` otherwise."""
    if low > failed_above:
        return "failed"
    return "passed" if high < passed_below else "undecided"


def map_verdict(rows: pd.DataFrame, passed_below: float, failed_above: float) -> dict[str, Any]:
    """The verdict on one map from its rows: similarity, value, low, high, images, verdict.

    The value is the mean over images of the rank correlation, rows of one image averaged first
    and images without one (NaN) left out. Its interval is Student's, as a bootstrap of few images
    is too narrow; one image decides nothing.
    """
    values = rows.groupby("sample_id", observed=True, sort=False)[_MAIN].mean().dropna()
    if values.empty:
        return {"similarity": _MAIN, "value": None, "low": None, "high": None, "images": 0,
                "verdict": "undecided"}  # fmt: skip
    value, low, high = map(float, student_interval(values))
    said = verdict(low, high, passed_below, failed_above) if len(values) > 1 else "undecided"
    return {"similarity": _MAIN, "value": value, "low": low, "high": high, "images": len(values),
            "verdict": said}  # fmt: skip


def image_means(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Per image, map, mode and variant the mean over draws and steps."""
    keys = [*_IMAGE, *_MAP, "mode", "variant"]
    return rows.groupby(keys, observed=True, sort=False)[list(names)].mean().reset_index()


def gate_table(
    rows: pd.DataFrame, passed_below: float, failed_above: float
) -> list[dict[str, Any]]:
    """The verdict on each map, by its mean rank correlation over images and draws.

    Two tests, each with an interval over images: `all layers` after everything is drawn anew, and
    `upper half` after the upper half of the steps from the output downwards (where cascading was
    measured). A map fails if it fails either, and passes if it passes all.

    Returns:
        Per method, view and variant `verdict` and `tests`, a list of test, step, value, low, high
        and verdict.
    """
    table = []
    for (method, view, variant), group in rows.groupby(
        [*_MAP, "variant"], observed=True, sort=False
    ):
        tests = []
        for name, part in _tests(group):
            said = map_verdict(part, passed_below, failed_above)
            tests.append({"test": name, "step": int(part["step"].iloc[0]), **said})
        said_all = {test["verdict"] for test in tests}
        whole = "failed" if "failed" in said_all else "undecided"
        whole = "passed" if said_all == {"passed"} else whole
        table.append(
            {"method": method, "view": view, "variant": variant, "verdict": whole, "tests": tests}
        )
    return table


def layer_curves(rows: pd.DataFrame, names: Sequence[str], resamples: int) -> pd.DataFrame:
    """Mean of each score with its interval over images after each step, draws averaged.

    Returns:
        Columns method, view, mode, variant, step, layer, and per score NAME, NAME_low, NAME_high.
    """
    keys = [*_MAP, "mode", "variant", "step", "layer"]
    frames = []
    for values, group in rows.groupby(keys, observed=True, sort=False):
        means = group.groupby("sample_id", observed=True, sort=False)[list(names)].mean().dropna()
        if means.empty:
            continue
        found = bootstrap_interval(means.to_numpy(), resamples=resamples)
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        for place, name in enumerate(names):
            parts = (float(np.asarray(part)[place]) for part in found)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))
        frames.append(row)
    return pd.DataFrame(frames)


def _tests(group: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    tests = [("all layers", group[group["mode"] == "full"])]
    cascading = group[group["mode"] == "cascading"]
    if len(cascading) and cascading["step"].max() > 1:
        half = (int(cascading["step"].max()) + 1) // 2
        tests.insert(0, ("upper half", cascading[cascading["step"] == half]))
    return tests
