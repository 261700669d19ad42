"""Paired comparisons of a panel's curves: with the original gradient, and with the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from saliency_lab.evaluation.rows.statistics import PairedDifference, holm, paired_difference
from saliency_lab.report.reading.summaries import Comparison, Side

if TYPE_CHECKING:
    from saliency_lab.report.comparing.panels import Curve, Panel

SIGNIFICANT = 0.05
Place = tuple[str, str, str]
"""Key of a curve, mode, fill."""


def to_reference(panel: Panel) -> dict[Place, Comparison]:
    """Paired differences to the reference: method minus reference, on the same images.

    The runs' own comparisons are taken where they cover the panel. Methods measured by runs of
    their own were never compared by any of them: then all are, from the rows, as one family.
    """
    reference = panel.reference
    measured = {place[:3] for place in panel.area_of if place[3] == "allegiance"}
    wanted = {
        (key, mode, fill)
        for key, mode, fill in measured
        if key != reference.key and (reference.key, mode, fill) in measured
    }
    recorded = _recorded(panel)
    if not wanted - set(recorded):
        return recorded
    return _compared(panel, [(place, reference.key) for place in sorted(wanted)])


def to_controls(panel: Panel) -> dict[Place, Comparison]:
    """Every method minus the best control of its mode and fill; Holm over all of the panel.

    A control is a map that cannot know the classifier's reasons (noise, edges, the centre). The
    best one has the smallest area under deletion, the largest under insertion.
    """
    controls = {curve.key for curve in panel.curves if curve.control}
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for (key, mode, fill, score), area in panel.area_of.items():
        if key in controls and score == "allegiance":
            found = (_towards_better(mode) * area.area, key)
            best[mode, fill] = max(best.get((mode, fill), found), found)
    pairs = [
        ((key, mode, fill), best[mode, fill][1])
        for key, mode, fill, score in panel.area_of
        if score == "allegiance" and key not in controls and (mode, fill) in best
    ]
    return _compared(panel, pairs)


def beats(comparison: Comparison) -> bool:
    """Whether the first side is significantly more faithful: interval and corrected p agree."""
    sign = _towards_better(comparison.mode)
    clear = min(sign * comparison.low, sign * comparison.high) > 0
    return clear and comparison.p_holm is not None and comparison.p_holm < SIGNIFICANT


def _towards_better(mode: str) -> int:
    return 1 if mode == "insertion" else -1


def _compared(panel: Panel, pairs: Sequence[tuple[Place, str]]) -> dict[Place, Comparison]:
    """Each place minus the curve of the second key, over the images that both were measured on."""
    if not pairs:
        return {}
    curves = {curve.key: curve for curve in panel.curves}
    areas = panel.image_areas.set_index(["key", "mode", "fill", "sample_id"])["area"].sort_index()
    differences: list[PairedDifference] = []
    for (key, mode, fill), other in pairs:
        both = [areas.loc[key, mode, fill], areas.loc[other, mode, fill]]
        pair = pd.concat(both, axis=1, join="inner")
        differences.append(paired_difference(pair.iloc[:, 0], pair.iloc[:, 1]))
    corrected = holm([difference.p for difference in differences])
    return {
        place: Comparison(
            a=_side(curves[place[0]]),
            b=_side(curves[other]),
            mode=place[1],
            fill=place[2],
            p_holm=p_holm,
            **asdict(difference),
        )
        for (place, other), difference, p_holm in zip(pairs, differences, corrected, strict=True)
    }


def _side(curve: Curve) -> Side:
    return Side(method=curve.method, view=curve.view)


def _recorded(panel: Panel) -> dict[Place, Comparison]:
    reference = panel.reference
    pair = (reference.method, reference.view)
    found: dict[Place, Comparison] = {}
    for curve in panel.curves:
        # The run's own reference may be of other settings than the panel's.
        if panel.key_of.get((curve.run.name, *pair)) != reference.key:
            continue
        wanted = {(curve.method, curve.view), pair}
        for comparison in curve.run.summary.comparisons:
            sides = {(side.method, side.view) for side in (comparison.a, comparison.b)}
            if comparison.score == "allegiance" and sides == wanted and len(wanted) == 2:
                place = (curve.key, comparison.mode, comparison.fill)
                found[place] = _oriented(panel, curve, comparison)
    return found


def _oriented(panel: Panel, curve: Curve, comparison: Comparison) -> Comparison:
    """The comparison with the sign of (method − reference), whichever way it was written."""
    where = (comparison.mode, comparison.fill, "allegiance")
    mine, theirs = (panel.area_of.get((key, *where)) for key in (curve.key, panel.reference.key))
    if mine is not None and theirs is not None:
        expected = mine.area - theirs.area
        turned = abs(expected + comparison.difference) < abs(expected - comparison.difference)
    else:
        turned = (comparison.b.method, comparison.b.view) == (curve.method, curve.view)
    if not turned:
        return comparison
    return comparison.model_copy(
        update={
            "difference": -comparison.difference,
            "low": -comparison.high,
            "high": -comparison.low,
        }
    )
