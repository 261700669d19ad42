"""Several measures together: a map beats another where enough agree and none objects."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from saliency_lab.evaluation.rows.statistics import holm, paired_difference

LEAST = 4
"""Measures that have to decide for a map."""


def agreed_sign(votes: ArrayLike, least: int = LEAST) -> NDArray[np.int64]:
    """1 or -1 where at least so many votes are for it and none is against, else 0.

    Args:
        votes: (..., M) of 1, -1 and 0, one for each measure.
    """
    signs = np.asarray(votes, dtype=np.int64)
    above, below = (signs > 0).sum(-1), (signs < 0).sum(-1)
    found = ((above >= least) & (below == 0)).astype(np.int64)
    return found - ((below >= least) & (above == 0))


def pair_verdicts(
    scores: pd.DataFrame, *, least: int = LEAST, level: float = 0.95, resamples: int = 1000
) -> list[dict[str, Any]]:
    """Every two views held against each other by every measure.

    A measure decides where the paired difference over images has an interval without 0 and a
    Wilcoxon p below 1 − level, corrected by Holm over all pairs of this measure.

    Args:
        scores: rows of images with `sample_id`, `view`, `measure` and `value`, higher is better.

    Returns:
        Per pair a, b, the measures that are for each, and `verdict`: a view's name or "undecided".
    """
    pairs = list(itertools.combinations(dict.fromkeys(scores["view"].astype(str)), 2))
    votes: dict[str, list[int]] = {}
    for measure, rows in scores.groupby("measure", observed=True, sort=False):
        wide = rows.pivot(index="sample_id", columns="view", values="value")
        found = [_compared(wide, a, b, level, resamples) for a, b in pairs]
        corrected = holm([p for _, p in found])
        votes[str(measure)] = [
            sign if p < 1 - level else 0 for (sign, _), p in zip(found, corrected, strict=True)
        ]
    verdicts = []
    for at, (a, b) in enumerate(pairs):
        own = {measure: signs[at] for measure, signs in votes.items()}
        sign = int(agreed_sign(list(own.values()), least))
        verdicts.append(
            {
                "a": a,
                "b": b,
                "for_a": [measure for measure, vote in own.items() if vote > 0],
                "for_b": [measure for measure, vote in own.items() if vote < 0],
                "verdict": {1: a, -1: b, 0: "undecided"}[sign],
            }
        )
    return verdicts


def twin_table(scores: pd.DataFrame, resamples: int = 1000) -> list[dict[str, Any]]:
    """Each view's map − its smoothed twin by every measure, with its interval.

    Where the twin wins, smoothness is part of what the measure rewards.

    Args:
        scores: as of `pair_verdicts`, with a column `version` of `map` and `twin`.
    """
    table = []
    for (view, measure), rows in scores.groupby(["view", "measure"], observed=True, sort=False):
        wide = rows.pivot(index="sample_id", columns="version", values="value").dropna()
        if wide.empty or set(wide.columns) != {"map", "twin"}:
            continue
        found = paired_difference(wide["map"], wide["twin"], resamples=resamples)
        table.append(
            {
                "view": str(view),
                "measure": str(measure),
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "twin_wins": found.high < 0,
            }
        )
    return table


def _compared(
    wide: pd.DataFrame, a: str, b: str, level: float, resamples: int
) -> tuple[int, float]:
    """The sign of a − b where its interval excludes 0, and the p-value."""
    pair = wide.reindex(columns=[a, b]).dropna()
    if pair.empty:
        return 0, 1.0
    found = paired_difference(pair[a], pair[b], level=level, resamples=resamples)
    return int(found.low > 0) - int(found.high < 0), found.p
