"""Panels: the evaluations of one classifier on one split, whichever runs they came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from saliency_lab.report.comparing.contrasts import to_controls, to_reference
from saliency_lab.report.comparing.grouping import Identity, identity_of, titles_of
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import (
    Condition,
    Panel,
    PanelMap,
    condition_values,
)
from saliency_lab.report.comparing.variants import (
    Name,
    Signature,
    leading_first,
    map_names,
    signature_of,
)
from saliency_lab.report.drawing.palette import order_of, style_of, told_apart, varied
from saliency_lab.report.reading.records import EvaluationRun
from saliency_lab.runs.files import file_word

Names = Mapping[tuple[str, str, Signature], Name]


def build_panels(runs: Sequence[EvaluationRun], known: Known | None = None) -> list[Panel]:
    """Panels of runs that measured the same classifier on the same images in the same way.

    Args:
        runs: what was read.
        known: comparisons that need not be made again.
    """
    panels = grouped_panels(runs)
    compare_maps(panels, known or Known())
    return panels


def compare_maps(panels: Sequence[Panel], known: Known) -> None:
    """Give each panel its comparisons: of its maps with the reference and with the controls."""
    for panel in panels:
        panel.comparison_of = to_reference(panel, known)
        panel.control_of = to_controls(panel, known)


def grouped_panels(runs: Sequence[EvaluationRun]) -> list[Panel]:
    """As `build_panels`, before anything is compared: all that figures are drawn from."""
    groups: dict[Identity, list[EvaluationRun]] = defaultdict(list)
    for run in runs:
        groups[identity_of(run)].append(run)
    names = map_names(runs)
    titles = titles_of([group[0] for group in groups.values()])
    panels = [
        _panel(title, group, names) for title, group in zip(titles, groups.values(), strict=True)
    ]
    first = {panel.classifier: panel.runs[0] for panel in reversed(panels)}
    subjects = dict(zip(first, titles_of(list(first.values()), measured=False), strict=True))
    for panel in panels:
        panel.subject = subjects[panel.classifier]
    slugs: dict[str, int] = defaultdict(int)
    for panel in panels:
        slugs[panel.slug] += 1
        if slugs[panel.slug] > 1:
            panel.slug = f"{panel.slug}-{slugs[panel.slug]}"
    return [panel for panel in panels if panel.maps]


def _panel(title: str, runs: list[EvaluationRun], names: Names) -> Panel:
    panel = Panel(slug=file_word(title), title=title, runs=runs)
    taken: set[tuple[str, Condition]] = set()
    for run in leading_first(runs):
        conditions = run.found.conditions
        by_map: dict[tuple[str, str], set[Condition]] = defaultdict(set)
        for mean in run.found.means:
            place = condition_values(mean.condition, conditions)
            by_map[mean.method, mean.view].add(place)
        for (method, view), measured in by_map.items():
            name = _name(run, names[method, view, signature_of(run)], measured, taken)
            panel.key_of[run.name, method, view] = name.key
            new = {condition for condition in measured if (name.key, condition) not in taken}
            if not new:
                continue
            taken |= {(name.key, condition) for condition in new}
            if name.key not in {one.key for one in panel.maps}:
                style = varied(replace(style_of(method, view), label=name.label), name.variant)
                panel.maps.append(PanelMap(name.key, method, view, style, run))
            panel.parts.append((run, method, view, name.key))
            panel.part_conditions.append(new)
            for mean in run.found.means:
                place = condition_values(mean.condition, conditions)
                if (mean.method, mean.view) == (method, view) and place in new:
                    panel.mean_of[name.key, place, mean.score] = mean
    panel.maps.sort(key=lambda one: (order_of(one.method, one.view), one.key))
    styles = told_apart([one.style for one in panel.maps])
    panel.maps = [replace(one, style=style) for one, style in zip(panel.maps, styles, strict=True)]
    return panel


def _name(
    run: EvaluationRun,
    name: Name,
    measured: set[Condition],
    taken: set[tuple[str, Condition]],
) -> Name:
    """The map's name; the run's own is added where it may not be the one measured before.

    Equal settings of one checkpoint are one map. Without a record of either nobody knows.
    """
    known = bool(run.settings) and bool((run.summary.checkpoint or {}).get("sha256"))
    if known or not any((name.key, condition) in taken for condition in measured):
        return name
    tail = "/".join(run.name.split("/")[-2:])
    return Name(f"{name.key} ({tail})", f"{name.label} ({tail})", name.variant + 1)
