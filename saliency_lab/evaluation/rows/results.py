"""From per-image rows to areas, curves and comparisons, each with its interval."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saliency_lab.evaluation.rows.statistics import bootstrap_interval, holm, paired_difference

CURVE = ["method", "view", "mode", "fill"]
SCORES = {"allegiance": "agrees", "probability": "probability", "logit": "logit"}


def image_areas(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per image and curve: the trapezoid area under each score over the fractions.

    Args:
        rows: per-image rows with the columns of `rows.parquet`.

    Returns:
        Columns sample_id, index, label, method, view, mode, fill, allegiance, probability, logit.
    """
    frames = []
    for names, curve in rows.groupby(CURVE, observed=True, sort=False):
        ids, fractions = _grid(curve)
        frame = ids.copy()
        for name, value in zip(CURVE, names, strict=True):
            frame[name] = value
        for score, column in SCORES.items():
            values = _matrix(curve, column, len(fractions))
            frame[score] = np.trapezoid(values, fractions, axis=1)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def curve_table(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """The mean curve of each method, view, mode and fill, with the interval of its allegiance."""
    frames = []
    for names, curve in rows.groupby(CURVE, observed=True, sort=False):
        _, fractions = _grid(curve)
        agrees = _matrix(curve, "agrees", len(fractions))
        found = bootstrap_interval(agrees, resamples=resamples)
        frame = pd.DataFrame(
            {
                **dict(zip(CURVE, names, strict=True)),
                "fraction": fractions,
                "allegiance": found.value,
                "low": found.low,
                "high": found.high,
            }
        )
        for column in ("probability", "logit", "deleted"):
            frame[column] = _matrix(curve, column, len(fractions)).mean(0)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def area_table(areas: pd.DataFrame, resamples: int) -> list[dict[str, Any]]:
    """The mean area of each curve and score with its interval over images."""
    table = []
    for names, group in areas.groupby(CURVE, observed=True, sort=False):
        found = bootstrap_interval(group[list(SCORES)].to_numpy(), resamples=resamples)
        for place, score in enumerate(SCORES):
            value, low, high = (float(np.asarray(part)[place]) for part in found)
            table.append(
                {
                    **dict(zip(CURVE, names, strict=True)),
                    "score": score,
                    "area": value,
                    "low": low,
                    "high": high,
                }
            )
    return table


def comparisons(areas: pd.DataFrame, resamples: int) -> list[dict[str, Any]]:
    """Every pair of maps under the same mode and fill, image by image.

    The difference of allegiance areas a − b with its interval, Wilcoxon's p, and p corrected by
    Holm over all pairs of the table.
    """
    table: list[dict[str, Any]] = []
    for (mode, fill), group in areas.groupby(["mode", "fill"], observed=True, sort=False):
        wide = group.pivot(index="sample_id", columns=["method", "view"], values="allegiance")
        for a, b in itertools.combinations(wide.columns, 2):
            pair = wide[[a, b]].dropna()
            if pair.empty:
                continue
            found = paired_difference(pair[a], pair[b], resamples=resamples)
            table.append(
                {
                    "a": {"method": a[0], "view": a[1]},
                    "b": {"method": b[0], "view": b[1]},
                    "mode": mode,
                    "fill": fill,
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p,
                }
            )
    for row, corrected in zip(table, holm([row["p"] for row in table]), strict=True):
        row["p_holm"] = corrected
    return table


def completeness_table(metas: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """How complete each image's attributions are; empty for sources that claim nothing of it.

    Returns:
        Columns sample_id, total (the attributions' sum), change (of the logit between baseline
        and image), error (their distance); in units of the logit.
    """
    rows = [row for meta in metas for row in meta.get("completeness", [])]
    table = pd.DataFrame(rows, columns=["sample_id", "total", "change"])
    return table.assign(error=(table["total"] - table["change"]).abs())


def mean_cost(metas: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Forwards, backwards and seconds per image for maps and curves, and the peak memory."""
    images = sum(meta["images"] for meta in metas)
    found: dict[str, float] = {}
    for stage in ("maps", "curves"):
        for name in ("forwards", "backwards", "seconds"):
            total = sum(meta["cost"][stage][name] for meta in metas)
            found[f"{stage}_{name}"] = total / max(images, 1)
    found["peak_bytes"] = float(max((meta["cost"]["peak_bytes"] for meta in metas), default=0))
    return found


def _grid(curve: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The images and fractions of a curve, whose rows lie image by image, fraction by fraction."""
    fractions = curve["fraction"].unique()
    ids = curve.loc[curve["fraction"] == fractions[0], ["sample_id", "index", "label"]]
    return ids.reset_index(drop=True), fractions.astype(np.float64)


def _matrix(curve: pd.DataFrame, column: str, fractions: int) -> NDArray[np.float64]:
    return curve[column].to_numpy(dtype=np.float64).reshape(-1, fractions)
