"""Do the measures of a classifier's maps agree: over images, over fills, with each other?"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.agreement import krippendorff_alpha
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Condition, Panel

LEAST_MAPS = 5
_RESAMPLES = 200


def image_table(panels: Sequence[Panel], known: Known | None = None) -> pd.DataFrame:
    """Per measure and condition Krippendorff's alpha: do images agree on the order of the maps?

    1 where every image ranks the maps alike, 0 where they agree as by chance. What is `known` need
    not be computed again.
    """
    known = known or Known()
    return pd.DataFrame(
        row for panel in _compared(panels) for row in known.within(_image_rows, panel)
    )


def _image_rows(panel: Panel, known: Known) -> list[dict[str, Any]]:
    rows = []
    for condition in panel.conditions:
        keys = [
            key for key, place, score in panel.mean_of if (place, score) == (condition, panel.main)
        ]
        if len(keys) < LEAST_MAPS or panel.better(condition) is None:
            continue
        wide = panel.main_tables[condition][keys]
        alpha = known.result(_alpha, wide.rank(axis=1).to_numpy(np.float64))
        if alpha is not None:
            rows.append(
                _named(panel, panel.condition_text(condition), panel.main)
                | {"maps": len(keys), "images": len(wide), "alpha": alpha}
            )
    return rows


def fill_table(panels: Sequence[Panel], known: Known | None = None) -> pd.DataFrame:
    """Per score that was measured under several fills: do they rank the maps alike?

    The mean of Kendall's τ over all pairs of fills, with a percentile interval over maps, and the
    pair that agrees least. Most-important-first against least-important-first and their difference:
    Blücher et al., "Decoupling pixel flipping and occlusion strategy", 2024.
    What is `known` need not be computed again.
    """
    known = known or Known()
    rows = []
    for panel in _compared(panels):
        if "fill" not in panel.found.conditions:
            continue
        at = panel.found.conditions.index("fill")
        for score in panel.found.scores:
            by_rest: dict[Condition, dict[str, dict[str, float]]] = defaultdict(dict)
            for (key, condition, name), mean in panel.mean_of.items():
                if name == score.name and mean.better is not None:
                    rest = (*condition[:at], *condition[at + 1 :])
                    by_rest[rest].setdefault(condition[at], {})[key] = mean.value
            for rest, by_fill in by_rest.items():
                wide = pd.DataFrame(by_fill).dropna()
                # A fill under which all maps score the same has no order to agree with.
                wide = wide.loc[:, wide.nunique() > 1]
                if wide.shape[1] < 2 or len(wide) < LEAST_MAPS:
                    continue
                rows.append(
                    _named(panel, ", ".join(rest), score.name)
                    | {"maps": len(wide), "fills": wide.shape[1]}
                    | _agreement(wide, known)
                )
    return pd.DataFrame(rows)


def measure_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """Per classifier and two measures: Kendall's τ and Spearman's ρ of their orders of the maps.

    Positive where the maps that are better by one are better by the other.
    """
    groups: dict[tuple[object, ...], dict[str, pd.Series]] = defaultdict(dict)
    titles: dict[tuple[object, ...], str] = {}
    for panel in _compared(panels):
        place = panel.classifier
        titles.setdefault(place, panel.subject)
        for condition in panel.conditions:
            better = panel.better(condition)
            if better is None or "twin" in condition:
                continue
            sign = 1 if better == "higher" else -1
            means = {
                one.key: sign * mean.value
                for one in panel.maps
                if (mean := panel.main_mean(one.key, condition))
            }
            name = f"{panel.found.name} {panel.condition_text(condition)}".strip()
            if protocol := panel.protocol_text():
                name = f"{name} ({protocol})"
            if name in groups[place]:  # under another setting, which the panel's title tells
                setting = panel.title.partition(" (")[2].removesuffix(")")
                name = f"{name} ({setting or len(groups[place])})"
            groups[place][name] = pd.Series(means)
    rows = []
    for place, measures in groups.items():
        for (a, first), (b, second) in itertools.combinations(measures.items(), 2):
            both = pd.concat([first, second], axis=1, join="inner").dropna()
            if len(both) < LEAST_MAPS or (both.nunique() == 1).any():
                continue
            one, other = both.iloc[:, 0], both.iloc[:, 1]
            rows.append(
                {
                    "classifier": titles[place],
                    "a": a,
                    "b": b,
                    "maps": len(both),
                    "kendall": float(stats.kendalltau(one, other).statistic),
                    "spearman": float(stats.spearmanr(one, other).statistic),
                }
            )
    return pd.DataFrame(rows)


def _compared(panels: Sequence[Panel]) -> list[Panel]:
    return [panel for panel in panels if panel.found.role not in ("gate", "robustness")]


def _named(panel: Panel, condition: str, score: str) -> dict[str, object]:
    return {
        "classifier": panel.subject,
        "measure": panel.found.name,
        "condition": condition,
        "score": score,
    }


def _alpha(ranks: NDArray[np.float64]) -> float | None:
    try:
        return krippendorff_alpha(pd.DataFrame(ranks))
    except UserError:  # every image gives every map the same rank: there is no order to agree on
        return None


def _agreement(wide: pd.DataFrame, known: Known) -> dict[str, object]:
    mean, low, high, least, pair = known.result(_mean_tau, wide.to_numpy(np.float64))
    return {
        "mean tau": mean,
        "low": low,
        "high": high,
        "least tau": least,
        "least agree": " and ".join(str(wide.columns[place]) for place in pair),
    }


def _mean_tau(values: NDArray[np.float64]) -> list[Any]:
    """Mean tau of all pairs of columns, its interval over rows, the least, and the pair of it."""
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    found = _taus(values, pairs)
    least = pairs[int(np.nanargmin(found))]
    drawn = np.random.default_rng(42).integers(0, len(values), (_RESAMPLES, len(values)))
    # A draw of few maps may be the same map over and over, which has no order.
    resampled = [taus for rows in drawn if not np.isnan(taus := _taus(values[rows], pairs)).all()]
    means = [np.nanmean(taus) for taus in resampled]
    low, high = np.quantile(means, [0.025, 0.975]) if means else (np.nan, np.nan)
    return [float(np.nanmean(found)), float(low), float(high), float(np.nanmin(found)), least]


def _taus(values: NDArray[np.float64], pairs: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Kendall's tau-b of each pair of columns; NaN where one is constant."""
    above = np.sign(values[:, None, :] - values[None, :, :])
    upper = above[np.triu_indices(len(values), 1)]
    untied = np.sqrt((upper != 0).sum(0))
    products = upper.T @ upper
    with np.errstate(invalid="ignore", divide="ignore"):
        table = products / untied[:, None] / untied[None]
    return np.array([table[a, b] for a, b in pairs])
