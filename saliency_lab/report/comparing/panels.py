"""Panels: the evaluations of one classifier on one split, whichever runs they came from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd

from saliency_lab.report.comparing.contrasts import to_controls, to_reference
from saliency_lab.report.comparing.grouping import Identity, identity_of, titles_of
from saliency_lab.report.comparing.variants import (
    Name,
    Signature,
    curve_names,
    leading_first,
    signature_of,
)
from saliency_lab.report.drawing.figures import ordered_conditions
from saliency_lab.report.drawing.palette import Style, order_of, style_of, varied
from saliency_lab.report.reading.records import EvaluationRun
from saliency_lab.report.reading.summaries import Area, Comparison, EvaluationSummary
from saliency_lab.reproductions.published import Published, published

Condition = tuple[str, str]
REFERENCE = ("gradient", "original")
Names = Mapping[tuple[str, str, Signature], Name]


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

    @property
    def control(self) -> bool:
        """Whether this is a map that cannot know the classifier's reasons."""
        return self.run.summary.control


@dataclass
class Panel:
    """What one model on one data split gave, over all methods.

    `parts` holds (run, method, view, key): a curve may be black in one run and white in another.
    `key_of` names the curve of each run's name, method and view, those measured twice included:
    such a repetition is in no part. `control_of` compares with the best control.
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
    key_of: dict[tuple[str, str, str], str] = field(default_factory=dict)
    comparison_of: dict[tuple[str, str, str], Comparison] = field(default_factory=dict)
    control_of: dict[tuple[str, str, str], Comparison] = field(default_factory=dict)

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
    groups: dict[Identity, list[EvaluationRun]] = defaultdict(list)
    for run in runs:
        groups[identity_of(run)].append(run)
    names = curve_names(runs)
    titles = titles_of([group[0] for group in groups.values()])
    panels = [
        _panel(title, group, names) for title, group in zip(titles, groups.values(), strict=True)
    ]
    slugs: dict[str, int] = defaultdict(int)
    for panel in panels:
        slugs[panel.slug] += 1
        if slugs[panel.slug] > 1:
            panel.slug = f"{panel.slug}-{slugs[panel.slug]}"
    return [panel for panel in panels if panel.curves]


def _panel(title: str, runs: list[EvaluationRun], names: Names) -> Panel:
    panel = Panel(slug=_slug(title), title=title, summary=runs[0].summary, runs=runs)
    taken: set[tuple[str, str, str]] = set()
    points, image_areas = [], []
    for run in leading_first(runs):
        for (method, view), part in run.curves.groupby(["method", "view"], sort=False):
            measured = set(zip(part["mode"], part["fill"], strict=True))
            name = _name(run, names[method, view, signature_of(run)], measured, taken)
            panel.key_of[run.name, method, view] = name.key
            new = {pair for pair in measured if (name.key, *pair) not in taken}
            if not new:
                continue
            taken |= {(name.key, *pair) for pair in new}
            if name.key not in {curve.key for curve in panel.curves}:
                style = varied(replace(style_of(method, view), label=name.label), name.variant)
                panel.curves.append(Curve(name.key, method, view, style, run))
            panel.parts.append((run, method, view, name.key))
            points.append(_under(part, new).assign(key=name.key))
            mine = (run.areas["method"] == method) & (run.areas["view"] == view)
            image_areas.append(_under(run.areas[mine], new).assign(key=name.key))
            for area in run.summary.areas:
                if (area.method, area.view) == (method, view) and (area.mode, area.fill) in new:
                    panel.area_of[name.key, area.mode, area.fill, area.score] = area
    panel.curves.sort(key=lambda curve: (order_of(curve.method, curve.view), curve.key))
    if points:
        panel.points = pd.concat(points, ignore_index=True)
        panel.image_areas = pd.concat(image_areas, ignore_index=True)
        panel.comparison_of = to_reference(panel)
        panel.control_of = to_controls(panel)
    return panel


def _name(
    run: EvaluationRun,
    name: Name,
    measured: set[Condition],
    taken: set[tuple[str, str, str]],
) -> Name:
    """The curve's name; the run's own is added where it may not be the one measured before.

    Equal settings of one checkpoint are one curve. Without a record of either nobody knows.
    """
    known = bool(run.settings) and bool((run.summary.checkpoint or {}).get("sha256"))
    if known or not any((name.key, *condition) in taken for condition in measured):
        return name
    tail = "/".join(run.name.split("/")[-2:])
    return Name(f"{name.key} ({tail})", f"{name.label} ({tail})", name.variant + 1)


def _under(table: pd.DataFrame, conditions: set[Condition]) -> pd.DataFrame:
    pairs = zip(table["mode"], table["fill"], strict=True)
    return table[[pair in conditions for pair in pairs]]


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
