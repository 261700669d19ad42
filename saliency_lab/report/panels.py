"""Panels: the evaluations of one classifier on one split, whichever runs they came from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import pandas as pd

from saliency_lab.metrics.statistics import holm, paired_difference
from saliency_lab.report.figures import ordered_conditions
from saliency_lab.report.palette import Style, order_of, style_of
from saliency_lab.report.paper import Published, published, title_of
from saliency_lab.report.records import EvaluationRun
from saliency_lab.report.summaries import Area, Comparison, EvaluationSummary, Side

Condition = tuple[str, str]
REFERENCE = ("gradient", "original")


@dataclass(frozen=True)
class Curve:
    """One method and view of a panel; `key` is unique in the report, `run` holds its files."""

    key: str
    method: str
    view: str
    style: Style
    run: EvaluationRun

    @property
    def label(self) -> str:
        return self.style.label


@dataclass
class Panel:
    """What one model on one data split gave, over all methods.

    `parts` holds (run, method, view, key): a curve may be black in one run and white in another.
    """

    slug: str
    title: str
    summary: EvaluationSummary
    runs: list[EvaluationRun]
    curves: list[Curve] = field(default_factory=list)
    parts: list[tuple[EvaluationRun, str, str, str]] = field(default_factory=list)
    points: pd.DataFrame = field(default_factory=pd.DataFrame)
    image_areas: pd.DataFrame = field(default_factory=pd.DataFrame)
    area_of: dict[tuple[str, str, str, str], Area] = field(default_factory=dict)
    comparison_of: dict[tuple[str, str, str], Comparison] = field(default_factory=dict)

    @cached_property
    def conditions(self) -> list[Condition]:
        pairs = zip(self.points["mode"], self.points["fill"], strict=True)
        return ordered_conditions(list(pairs))

    @property
    def reference(self) -> Curve:
        """What the others are compared with: the original gradient where it was measured."""
        hits = [curve for curve in self.curves if (curve.method, curve.view) == REFERENCE]
        return (hits or self.curves)[0]

    @property
    def paper(self) -> Published | None:
        """The published numbers, where this panel follows the paper's protocol on test images."""
        if self.summary.protocol != "paper" or self.summary.data.split.startswith("train"):
            return None
        return published(self.summary.data.name, self.summary.model.name, self.runs[0].pretrained)


def build_panels(runs: Sequence[EvaluationRun]) -> list[Panel]:
    """Panels of runs that measured the same classifier on the same images in the same way."""
    groups: dict[tuple[object, ...], list[EvaluationRun]] = defaultdict(list)
    for run in runs:
        groups[_identity(run)].append(run)
    titles = _titles([group[0] for group in groups.values()])
    panels = [_panel(title, group) for title, group in zip(titles, groups.values(), strict=True)]
    slugs: dict[str, int] = defaultdict(int)
    for panel in panels:
        slugs[panel.slug] += 1
        if slugs[panel.slug] > 1:
            panel.slug = f"{panel.slug}-{slugs[panel.slug]}"
    return [panel for panel in panels if panel.curves]


def _identity(run: EvaluationRun) -> tuple[object, ...]:
    summary = run.summary
    checkpoint = (summary.checkpoint or {}).get("sha256")
    data = summary.data
    return (
        data.name,
        summary.model.name,
        run.pretrained,
        data.split,
        str(data.images),
        data.fingerprint,
        checkpoint,
        summary.protocol,
        summary.seed,
        tuple(summary.fractions),
    )


def _titles(runs: Sequence[EvaluationRun]) -> list[str]:
    """ "Data · model", and after it whatever tells apart panels of the same data and model."""
    names = [
        title_of(run.summary.data.name, run.summary.model.name, run.pretrained) for run in runs
    ]
    traits = [_traits(run.summary) for run in runs]
    titles = []
    for name, mine in zip(names, traits, strict=True):
        same = [other for other, its in zip(traits, names, strict=True) if its == name]
        told = [
            trait for place, trait in enumerate(mine) if len({other[place] for other in same}) > 1
        ]
        titles.append(name + (f" ({', '.join(told)})" if told else ""))
    return titles


def _traits(summary: EvaluationSummary) -> tuple[str, ...]:
    checkpoint = summary.checkpoint or {}
    return (
        f"{summary.data.split} split",
        f"{summary.data.images} images",
        f"{summary.protocol} protocol",
        f"seed {summary.seed}",
        f"epoch {checkpoint.get('epoch', '?')}",
        f"weights {str(checkpoint.get('sha256', '?'))[:6]}",
        f"{len(summary.fractions)} fractions",
    )


def _panel(title: str, runs: list[EvaluationRun]) -> Panel:
    panel = Panel(slug=_slug(title), title=title, summary=runs[0].summary, runs=runs)
    taken: set[tuple[str, str, str]] = set()
    points, image_areas = [], []
    for run in runs:
        for (method, view), part in run.curves.groupby(["method", "view"], sort=False):
            key = f"{method}/{view}"
            measured = set(zip(part["mode"], part["fill"], strict=True))
            if any((key, *condition) in taken for condition in measured):
                key = f"{key} ({run.name.rpartition('/')[2]})"
            taken |= {(key, *condition) for condition in measured}
            if key not in {curve.key for curve in panel.curves}:
                panel.curves.append(_curve(key, method, view, run))
            panel.parts.append((run, method, view, key))
            points.append(part.assign(key=key))
            image_areas.append(_of(run.areas, method, view).assign(key=key))
            _collect(panel, run, key, method, view)
    panel.curves.sort(key=lambda curve: (order_of(curve.method, curve.view), curve.key))
    if points:
        panel.points = pd.concat(points, ignore_index=True)
        panel.image_areas = pd.concat(image_areas, ignore_index=True)
        _compare(panel)
    return panel


def _curve(key: str, method: str, view: str, run: EvaluationRun) -> Curve:
    style = style_of(method, view)
    plain = f"{method}/{view}"
    return Curve(key, method, view, replace(style, label=style.label + key[len(plain) :]), run)


def _of(table: pd.DataFrame, method: str, view: str) -> pd.DataFrame:
    return table[(table["method"] == method) & (table["view"] == view)]


def _collect(panel: Panel, run: EvaluationRun, key: str, method: str, view: str) -> None:
    for area in run.summary.areas:
        if (area.method, area.view) == (method, view):
            panel.area_of[key, area.mode, area.fill, area.score] = area


def _compare(panel: Panel) -> None:
    """Paired differences to the reference: method minus reference, on the same images.

    The runs' own comparisons are taken where they cover the panel. Methods measured by runs of
    their own were never compared by any of them: then all are, from the rows, as one family.
    """
    _take_recorded(panel)
    reference = panel.reference
    measured = {place[:3] for place in panel.area_of if place[3] == "allegiance"}
    wanted = {
        (key, mode, fill)
        for key, mode, fill in measured
        if key != reference.key and (reference.key, mode, fill) in measured
    }
    if wanted - set(panel.comparison_of):
        panel.comparison_of = _from_rows(panel, sorted(wanted))


def _from_rows(
    panel: Panel, places: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], Comparison]:
    curves = {curve.key: curve for curve in panel.curves}
    areas = panel.image_areas.set_index(["key", "mode", "fill", "sample_id"])["area"]
    areas = areas.sort_index()
    reference = panel.reference
    found = {}
    for key, mode, fill in places:
        pair = pd.concat(
            [areas.loc[key, mode, fill], areas.loc[reference.key, mode, fill]], axis=1, join="inner"
        )
        found[key, mode, fill] = paired_difference(pair.iloc[:, 0], pair.iloc[:, 1])
    corrected = holm([difference.p for difference in found.values()])
    return {
        place: Comparison(
            a=Side(method=curves[place[0]].method, view=curves[place[0]].view),
            b=Side(method=reference.method, view=reference.view),
            mode=place[1],
            fill=place[2],
            p_holm=p_holm,
            **asdict(difference),
        )
        for (place, difference), p_holm in zip(found.items(), corrected, strict=True)
    }


def _take_recorded(panel: Panel) -> None:
    reference = panel.reference
    for curve in panel.curves:
        for comparison in curve.run.summary.comparisons:
            pair = [(side.method, side.view) for side in (comparison.a, comparison.b)]
            wanted = {(curve.method, curve.view), (reference.method, reference.view)}
            if comparison.score == "allegiance" and set(pair) == wanted and len(wanted) == 2:
                place = (curve.key, comparison.mode, comparison.fill)
                panel.comparison_of[place] = _oriented(panel, curve, comparison)


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


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
