"""Paired comparisons of a panel's maps: with the original gradient, and with the controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from saliency_lab.evaluation.rows.format import Comparison, Side
from saliency_lab.evaluation.rows.significance import PairedDifference, holm, is_significant
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import (
    Condition,
    Panel,
    PanelMap,
    Place,
    condition_values,
)


def to_reference(panel: Panel, known: Known) -> dict[Place, Comparison]:
    """Paired differences to the reference: map minus reference, on the same images.

    The runs' own comparisons are taken where they cover the panel, and corrected as one family,
    whichever runs they are of. Maps measured by runs of their own were never compared by any of
    them: then all are, from the rows.
    """
    return _restored(known.within(_to_reference, panel))


def to_controls(panel: Panel, known: Known) -> dict[Place, Comparison]:
    """Every map minus the best control under its condition; Holm over all of the panel.

    Where differences have no p, nothing is said to beat a control or not to.
    """
    return _restored(known.within(_to_controls, panel))


def best_control(panel: Panel, condition: Condition) -> PanelMap | None:
    """The control with the best mean of the main score; None without one or without a better side.

    Only maps that cannot know the classifier's reasons (noise, edges, the centre) are asked: the
    classifier's own field with a little noise is as good as a map can be.
    """
    found = [
        (_towards_better(mean.better) * mean.value, one)
        for one in panel.maps
        if one.blind and (mean := panel.main_mean(one.key, condition)) and mean.better is not None
    ]
    return max(found, key=lambda each: each[0])[1] if found else None


def _to_reference(panel: Panel, known: Known) -> list[_Written]:
    reference = panel.reference
    measured = {(key, condition) for key, condition, score in panel.mean_of if score == panel.main}
    wanted = {
        (key, condition)
        for key, condition in measured
        if key != reference.key and (reference.key, condition) in measured
    }
    recorded = _recorded(panel)
    if not wanted - set(recorded):
        return _written(_corrected({place: recorded[place] for place in sorted(wanted)}))
    return _written(_compared(panel, [(place, reference.key) for place in sorted(wanted)], known))


def _corrected(found: Mapping[Place, Comparison]) -> dict[Place, Comparison]:
    tested = {place: one.p for place, one in found.items() if one.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        place: one.model_copy(update={"p_holm": corrected.get(place)})
        for place, one in found.items()
    }


def _to_controls(panel: Panel, known: Known) -> list[_Written]:
    if not panel.found.tested:
        return []
    controls = {one.key for one in panel.maps if one.control}
    best = {condition: best_control(panel, condition) for condition in panel.conditions}
    pairs = [
        ((key, condition), control.key)
        for key, condition, score in panel.mean_of
        if score == panel.main and key not in controls and (control := best[condition]) is not None
    ]
    return _written(_compared(panel, pairs, known))


_Written = tuple[str, Condition, dict[str, Any]]
"""A comparison as JSON has it: the key of its map, the condition, and its fields."""


def _written(found: Mapping[Place, Comparison]) -> list[_Written]:
    return [(key, condition, one.model_dump()) for (key, condition), one in found.items()]


def _restored(written: Iterable[_Written]) -> dict[Place, Comparison]:
    return {
        (key, tuple(condition)): Comparison.model_validate(one) for key, condition, one in written
    }


def beats(comparison: Comparison) -> bool:
    """Whether the first side is significantly better: interval and corrected p agree."""
    sign = _towards_better(comparison.better)
    if sign * comparison.difference <= 0 or comparison.p_holm is None:
        return False
    return is_significant(comparison.low, comparison.high, comparison.p_holm)


def _towards_better(better: str | None) -> int:
    return {"higher": 1, "lower": -1}.get(better or "", 0)


def _compared(
    panel: Panel, pairs: Sequence[tuple[Place, str]], known: Known
) -> dict[Place, Comparison]:
    """Each place minus the map of the second key, over the images that both were measured on."""
    if not pairs:
        return {}
    maps = {one.key: one for one in panel.maps}
    names = panel.found.conditions
    found: list[tuple[Place, str, PairedDifference]] = []
    for (key, condition), other in pairs:
        wide = panel.main_tables[condition]
        both = np.stack([wide[key].to_numpy(np.float64), wide[other].to_numpy(np.float64)])
        both = both[:, ~np.isnan(both).any(axis=0)]
        if both.size:
            difference = known.difference(both[0], both[1])
            found.append(((key, condition), other, difference))
    corrected = holm([difference.p for *_, difference in found])
    untested: dict[str, None] = {} if panel.found.tested else dict.fromkeys(("p", "p_holm"))
    return {
        place: Comparison(
            a=_side(maps[place[0]]),
            b=_side(maps[other]),
            condition=dict(zip(names, place[1], strict=True)),
            score=panel.main,
            better=panel.mean_of[(*place, panel.main)].better,
            **{**asdict(difference), "p_holm": p_holm, **untested},
        )
        for (place, other, difference), p_holm in zip(found, corrected, strict=True)
    }


def _side(one: PanelMap) -> Side:
    return Side(method=one.method, view=one.view)


def _recorded(panel: Panel) -> dict[Place, Comparison]:
    reference = panel.reference
    pair = (reference.method, reference.view)
    found: dict[Place, Comparison] = {}
    for one in panel.maps:
        # The run's own reference may be of other settings than the panel's.
        if panel.key_of.get((one.run.name, *pair)) != reference.key:
            continue
        wanted = {(one.method, one.view), pair}
        for comparison in one.run.found.comparisons:
            sides = {(side.method, side.view) for side in (comparison.a, comparison.b)}
            if sides == wanted and len(wanted) == 2:
                condition = condition_values(comparison.condition, panel.found.conditions)
                found[one.key, condition] = _oriented(comparison, one)
    return found


def _oriented(comparison: Comparison, one: PanelMap) -> Comparison:
    """The comparison with the sign of (map − reference), whichever way it was written."""
    if (comparison.a.method, comparison.a.view) == (one.method, one.view):
        return comparison
    return comparison.model_copy(
        update={
            "a": comparison.b,
            "b": comparison.a,
            "difference": -comparison.difference,
            "low": -comparison.high,
            "high": -comparison.low,
        }
    )
