"""From scores per image to means, comparisons and costs: any evaluator's, by what it declares."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.rows.intervals import bootstrap_interval
from saliency_lab.evaluation.rows.significance import holm, paired_difference

MAP = ["method", "view"]


def conditions_of(evaluator: Evaluator) -> list[str]:
    """The keys under which an image has a score of its own."""
    return list(evaluator.keys if evaluator.conditions is None else evaluator.conditions)


def score_means(evaluator: Evaluator, scores: pd.DataFrame, resamples: int) -> list[dict[str, Any]]:
    """The mean of each score over images, per map and condition, with its bootstrap interval.

    Args:
        scores: one row per image, map and condition, as `Evaluator.image_scores` gives them.
        resamples: of the bootstrap; all scores of a map and condition share them.

    Returns:
        Entries of the shape of `format.Mean`. A score that is NaN for some images (undefined
        there) is averaged over the others; one that is NaN everywhere is left out.
    """
    conditions, table = conditions_of(evaluator), []
    for key, group in scores.groupby([*MAP, *conditions], observed=True, sort=False):
        method, view, *values = (str(part) for part in key)
        condition = dict(zip(conditions, values, strict=True))
        for columns in _sharing_resamples(evaluator, group):
            known = group[columns].dropna()
            if known.empty:
                continue
            found = bootstrap_interval(known.to_numpy(np.float64), resamples=resamples)
            for place, score in enumerate(columns):
                value, low, high = (float(np.asarray(part)[place]) for part in found)
                table.append(
                    {
                        "method": method, "view": view, "condition": condition, "score": score,
                        "better": evaluator.better(score, condition), "value": value, "low": low,
                        "high": high, "images": len(known),
                    }
                )  # fmt: skip
    return table


def comparisons(evaluator: Evaluator, scores: pd.DataFrame, resamples: int) -> list[dict[str, Any]]:
    """Every pair of maps under the same condition, image by image, by the main score.

    The difference a − b with its interval, Wilcoxon's p, and p corrected by Holm over all pairs of
    the table. Both are None where the evaluator is not one to be tested.

    Returns:
        Entries of the shape of `format.Comparison`.
    """
    conditions, main = conditions_of(evaluator), evaluator.scores[0].name
    table: list[dict[str, Any]] = []
    groups: Any = [((), scores)]
    if conditions:
        groups = scores.groupby(conditions, observed=True, sort=False)
    for key, group in groups:
        condition = dict(zip(conditions, (str(part) for part in key), strict=True))
        wide = group.pivot(index="sample_id", columns=MAP, values=main)
        for a, b in itertools.combinations(wide.columns, 2):
            pair = wide[[a, b]].dropna()
            if pair.empty:
                continue
            found = paired_difference(pair[a], pair[b], resamples=resamples)
            table.append(
                {
                    "a": {"method": a[0], "view": a[1]},
                    "b": {"method": b[0], "view": b[1]},
                    "condition": condition,
                    "score": main,
                    "better": evaluator.better(main, condition),
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p,
                }
            )
    for row, corrected in zip(table, holm([row["p"] for row in table]), strict=True):
        row["p_holm"] = corrected
    return table if evaluator.tested else [{**row, "p": None, "p_holm": None} for row in table]


def completeness_table(metas: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How complete each image's attributions are; empty for methods that claim nothing of it.

    Returns:
        Columns sample_id, total (the attributions' sum), change (of the logit between baseline
        and image), error (their distance); in units of the logit.
    """
    rows = [row for meta in metas for row in meta.get("completeness", [])]
    table = pd.DataFrame(rows, columns=["sample_id", "total", "change"])
    return table.assign(error=(table["total"] - table["change"]).abs())


def estimate_table(metas: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How exactly each image's attributions are known; empty for methods that do not say.

    Returns:
        Columns sample_id, error (relative standard error, in [0, 1]), rounds.
    """
    rows = [row for meta in metas for row in meta.get("estimate", [])]
    table = pd.DataFrame(rows, columns=["sample_id", "error", "rounds"])
    return table.astype({"rounds": int})


def mean_cost(metas: Sequence[Mapping[str, Any]], stage: str) -> dict[str, float]:
    """Forwards, backwards and seconds per image of a stage, and the peak memory."""
    images = sum(meta["images"] for meta in metas)
    found = {
        name: sum(meta["cost"][stage][name] for meta in metas) / max(images, 1)
        for name in ("forwards", "backwards", "seconds")
    }
    found["peak_bytes"] = float(max((meta["cost"]["peak_bytes"] for meta in metas), default=0))
    return found


def _sharing_resamples(evaluator: Evaluator, scores: pd.DataFrame) -> list[list[str]]:
    """Columns that are known for the same images; what only describes a map apart from the rest."""
    alike: dict[tuple[bool, bytes], list[str]] = {}
    for score in evaluator.scores:
        known = scores[score.name].notna().to_numpy().tobytes()
        alike.setdefault((score.better is None, known), []).append(score.name)
    return list(alike.values())
