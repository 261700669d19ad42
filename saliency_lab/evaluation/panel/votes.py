"""Several measures together: a map beats another where enough agree and none objects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from saliency_lab.evaluation.rows.intervals import Interval, bootstrap_interval
from saliency_lab.evaluation.rows.significance import holm, mean_ps

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

    A measure decides where the mean paired difference over images has an interval without 0 and
    its p (Student's, of the mean) is below 1 − level, corrected by Holm over all pairs of this
    measure. It compares on the images that it measured every one of its views on.

    Args:
        scores: rows of images with `sample_id`, `view`, `measure` and `value`, higher is better.

    Returns:
        Per pair a, b, the measures that are for each, and `verdict`: a view's name or "undecided".
    """
    pairs = list(itertools.combinations(dict.fromkeys(scores["view"].astype(str)), 2))
    votes: dict[str, dict[tuple[str, str], int]] = {}
    for measure, rows in scores.groupby("measure", observed=True, sort=False):
        wide = rows.pivot(index="sample_id", columns="view", values="value")
        wide = wide.dropna(axis=1, how="all").dropna()
        own = [pair for pair in pairs if set(pair) <= set(wide.columns)]
        if own and len(wide):
            votes[str(measure)] = _signs(wide, own, level, resamples)
    verdicts = []
    for a, b in pairs:
        own_votes = {measure: signs.get((a, b), 0) for measure, signs in votes.items()}
        sign = int(agreed_sign(list(own_votes.values()), least)) if own_votes else 0
        verdicts.append(
            {
                "a": a,
                "b": b,
                "for_a": [measure for measure, vote in own_votes.items() if vote > 0],
                "for_b": [measure for measure, vote in own_votes.items() if vote < 0],
                "verdict": {1: a, -1: b, 0: "undecided"}[sign],
            }
        )
    return verdicts


def twin_table(
    scores: pd.DataFrame, *, level: float = 0.95, resamples: int = 1000
) -> list[dict[str, Any]]:
    """Each view's map − its smoothed twin by every measure, with its interval.

    Where the twin wins, smoothness is part of what the measure rewards. It wins where a measure
    decides as in `pair_verdicts`: the interval lies below 0, and p (Student's, of the mean, with
    Holm over the views of the measure) is below 1 − level.

    Args:
        scores: as of `pair_verdicts`, with a column `version` of `map` and `twin`.
    """
    found: dict[tuple[str, str], tuple[Interval, float]] = {}
    for (view, measure), rows in scores.groupby(["view", "measure"], observed=True, sort=False):
        wide = rows.pivot(index="sample_id", columns="version", values="value").dropna()
        if not wide.empty and set(wide.columns) == {"map", "twin"}:
            differences = (wide["map"] - wide["twin"]).to_numpy(np.float64)
            interval = bootstrap_interval(differences, level=level, resamples=resamples)
            (p,) = mean_ps(differences[:, None])
            found[str(view), str(measure)] = interval, p
    corrected: dict[tuple[str, str], float] = {}
    for measure in dict.fromkeys(measure for _, measure in found):
        own = [place for place in found if place[1] == measure]
        corrected |= dict(zip(own, holm([found[place][1] for place in own]), strict=True))
    return [
        {
            "view": view,
            "measure": measure,
            "difference": float(interval.value),
            "low": float(interval.low),
            "high": float(interval.high),
            "twin_wins": bool(interval.high < 0 and corrected[view, measure] < 1 - level),
        }
        for (view, measure), (interval, _) in found.items()
    ]


def _signs(
    wide: pd.DataFrame, pairs: Sequence[tuple[str, str]], level: float, resamples: int
) -> dict[tuple[str, str], int]:
    """Per pair 1 or -1 where a measure decides for the first or the second, else 0."""
    sides = ([pair[at] for pair in pairs] for at in (0, 1))
    first, second = (wide[names].to_numpy(np.float64) for names in sides)
    differences = first - second
    found = bootstrap_interval(differences, level=level, resamples=resamples)
    signs = (np.asarray(found.low) > 0).astype(int) - (np.asarray(found.high) < 0)
    corrected = holm(mean_ps(differences))
    return {
        pair: int(sign) if p < 1 - level else 0
        for pair, sign, p in zip(pairs, signs, corrected, strict=True)
    }
