"""Classifiers that differ in their seed only, and their scores as one number."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saliency_lab.evaluation.rows.intervals import seeds_interval
from saliency_lab.report.comparing.grouping import Identity, family_of, kind_of, titles_of
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Panel, PanelMap, Place
from saliency_lab.report.reading.configs import agree
from saliency_lab.report.reading.records import EvaluationRun


@dataclass(frozen=True)
class Combined:
    """The main score over seeds and images: mean, interval of both, and the mean of each seed."""

    map: PanelMap
    value: float
    low: float
    high: float
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class SeedGroup:
    """Panels of the same data, model and training, one per seed, in the order of seeds."""

    title: str
    panels: Sequence[Panel]
    combined: Mapping[Place, Combined]

    @property
    def seeds(self) -> list[int]:
        return [panel.summary.seed for panel in self.panels]


@dataclass(frozen=True)
class ApartSeeds:
    """Seeds of one model and training that were measured on different images."""

    title: str
    seeds: Sequence[int]


def seed_groups(panels: Sequence[Panel], known: Known | None = None) -> list[SeedGroup]:
    """Every family of at least two seeds; a checkpoint or seed that comes twice counts once.

    Args:
        panels: of any classifiers.
        known: intervals that need not be made again.
    """
    known = known or Known()
    families = _families(panels, family_of)
    titles = titles_of([family[0].runs[0] for family in families], seeds=False)
    found = zip(titles, map(_one_per_seed, families), strict=True)
    return [
        SeedGroup(title, each, _combined(each, known)) for title, each in found if len(each) > 1
    ]


def apart_seeds(panels: Sequence[Panel]) -> list[ApartSeeds]:
    """Where seeds would be combined, but not all of them were measured on the same images.

    So it is where each seed draws its own (`data.limit` with a `data.seed` that follows `seed`).
    """
    families = _families(panels, kind_of)
    titles = titles_of([family[0].runs[0] for family in families], seeds=False)
    found = []
    for title, family in zip(titles, families, strict=True):
        alike: dict[object, list[Panel]] = defaultdict(list)
        for panel in family:
            alike[panel.summary.data.fingerprint].append(panel)
        every = _one_per_seed(family)
        if all(len(_one_per_seed(part)) < len(every) for part in alike.values()):
            found.append(ApartSeeds(title, [panel.summary.seed for panel in every]))
    return found


def _families(
    panels: Sequence[Panel], of_run: Callable[[EvaluationRun], Identity]
) -> list[list[Panel]]:
    """Panels whose runs are alike by `of_run` and were trained in the same way."""
    families: list[list[Panel]] = []
    for panel in panels:
        run = panel.runs[0]
        for family in families:
            first = family[0].runs[0]
            if of_run(first) == of_run(run) and _same_recipe(first, run):
                family.append(panel)
                break
        else:
            families.append([panel])
    return families


def _same_recipe(one: EvaluationRun, other: EvaluationRun) -> bool:
    """Where a training is not known, nothing says that the seed alone is different."""
    if one.recipe is None or other.recipe is None:
        return False
    return agree(one.recipe, other.recipe)


def _one_per_seed(family: Sequence[Panel]) -> list[Panel]:
    # Of a seed's epochs the one that most seeds have, so that as few as can be are mixed; where a
    # training was done again, its latest evaluation is the one that counts.
    seeds_of = Counter(epoch for _, epoch in {(one.summary.seed, _epoch(one)) for one in family})
    by_seed: dict[int, Panel] = {}
    for panel in sorted(family, key=lambda one: (seeds_of[_epoch(one)], _started(one))):
        by_seed[panel.summary.seed] = panel
    by_checkpoint: dict[object, Panel] = {}
    for seed in sorted(by_seed):
        # One classifier measured under two seeds is no second classifier.
        checkpoint = (by_seed[seed].summary.checkpoint or {}).get("sha256") or seed
        by_checkpoint.setdefault(checkpoint, by_seed[seed])
    return list(by_checkpoint.values())


def _epoch(panel: Panel) -> int | None:
    return (panel.summary.checkpoint or {}).get("epoch")


def _started(panel: Panel) -> str:
    return max(str(run.environment.get("started") or "") for run in panel.runs)


def _combined(panels: Sequence[Panel], known: Known) -> dict[Place, Combined]:
    maps = {one.key: one for panel in reversed(panels) for one in panel.maps}
    found = {
        (key, tuple(condition)): Combined(maps[key], value, low, high, dict(each))
        for key, condition, value, low, high, each in known.within_all(_intervals_of, panels)
    }
    order = {key: at for at, key in enumerate(_ordered(panels))}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1])))


def _intervals_of(panels: Sequence[Panel], known: Known) -> list[list[Any]]:
    """Key, condition, mean, lower and upper end, and (seed, mean) pairs, for each place."""
    columns: dict[Place, dict[int, pd.Series]] = defaultdict(dict)
    for panel in panels:
        names = panel.found.conditions
        wide = panel.scores.pivot_table(
            index="sample_id", columns=["key", *names], values=panel.main, observed=True
        )
        for column in wide.columns:
            key, *condition = column if names else (column,)
            columns[key, tuple(condition)][panel.summary.seed] = wide[column]
    # Columns with values for the same seeds and images: one call for all.
    alike: dict[tuple[tuple[int, tuple[str, ...]], ...], list[Place]] = defaultdict(list)
    for place, by_seed in columns.items():
        there = ((seed, tuple(column.dropna().index)) for seed, column in by_seed.items())
        alike[tuple(there)].append(place)
    found = []
    main = panels[0].found.scores[0]
    for pattern, places in alike.items():
        arrays = [
            np.stack([columns[place][seed].dropna().to_numpy() for place in places], axis=1)
            for seed, _ in pattern
        ]
        place_of = {
            name: at for at, name in enumerate(sorted({n for _, its in pattern for n in its}))
        }
        images = [np.array([place_of[name] for name in its]) for _, its in pattern]
        limits = np.array([-np.inf if main.low is None else main.low,
                           np.inf if main.high is None else main.high])  # fmt: skip
        values, lows, highs = known.result(_intervals, limits, *arrays, *images)
        for at, place in enumerate(places):
            each = [
                (seed, float(a[:, at].mean())) for (seed, _), a in zip(pattern, arrays, strict=True)
            ]
            found.append([*place, values[at], lows[at], highs[at], each])
    return found


def _intervals(limits: NDArray[np.float64], *arrays: NDArray[Any]) -> list[list[float]]:
    """Mean, lower and upper end for each column of scores.

    Args:
        limits: what no score can be below or above.
        arrays: scores (images, columns) of each seed, then the images' numbers of each seed.
    """
    lowest, highest = limits
    scores, images = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
    names = [each.tolist() for each in images]
    found = seeds_interval(scores, images=names, lowest=lowest, highest=highest)
    return [np.asarray(ends, np.float64).tolist() for ends in found]


def _ordered(panels: Sequence[Panel]) -> list[str]:
    longest = sorted(panels, key=lambda panel: -len(panel.maps))
    return list(dict.fromkeys(one.key for panel in longest for one in panel.maps))
