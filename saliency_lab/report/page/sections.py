"""The page's sections as plain data for the template: texts, table cells and inline drawings."""

from __future__ import annotations

import importlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from saliency_lab.evaluation.rows.format import ComparisonSummary, EvaluationSummary
from saliency_lab.report.comparing.maps import Panel, PanelMap
from saliency_lab.report.comparing.seeds import SeedGroup
from saliency_lab.report.drawing.notation import count_text, duration, number, percent, span
from saliency_lab.report.drawing.palette import VIEWS, Style, label_of, order_of
from saliency_lab.report.drawing.plots import (
    Line,
    chart_svg,
    interval_span,
    interval_svg,
    swatch_svg,
)
from saliency_lab.report.page.score_tables import legend_entry, score_section
from saliency_lab.report.page.tables import hardware
from saliency_lab.report.reading.records import EvaluationRun, Records, TrainingRun
from saliency_lab.reproductions.published import title_of

log = logging.getLogger(__name__)

_LARGEST_CONFUSION = 20


def part_of(panel: Panel) -> Any:
    """The module with the evaluator's own part of the page, or None where it has none."""
    named = panel.found.sections
    if named is None:
        return None
    try:
        return importlib.import_module(named)
    except ImportError as error:
        # A person's own evaluator may not lie where this process looks: the table says the rest.
        log.warning("%s: omitting its section of the page: %s", panel.title, error)
        return None


def panel_section(panel: Panel) -> dict[str, Any]:
    """Charts, read-out and score tables of one panel."""
    part = part_of(panel)
    values = panel_values(panel)
    charts = part.charts(panel) if part else []
    score = panel.found.scores[0]
    return {
        "slug": panel.slug,
        "title": panel.title,
        "facts": _facts(panel),
        "charts": charts,
        "pictures": part.pictures(panel) if hasattr(part, "pictures") else [],
        "axes": any("svgs" in chart for chart in charts),
        "figure": f"{part.CURVES}-{panel.slug}" if hasattr(part, "CURVES") else "",
        "maps": [legend_entry(one) for one in panel.maps],
        "over": panel.curves_over,
        "steps": len(values["fractions"]) if values else 0,
        "tables": [score_section(panel, condition) for condition in panel.conditions],
        "score": score.name.replace("_", " "),
        "reference": panel.reference.label,
        "controlled": bool(panel.control_of),
        "better": _better(panel),
        "warnings": list(dict.fromkeys(w for run in panel.runs for w in _warnings(run))),
        "sparse": _sparse(panel),
        "drawn": _drawn(panel),
    }


def panel_values(panel: Panel) -> dict[str, Any]:
    """What the read-out needs: a value with its interval per map, condition and step."""
    if "read_out" not in panel.kept:
        part = part_of(panel)
        panel.kept["read_out"] = part.read_out(panel) if part else {}
    found: dict[str, Any] = panel.kept["read_out"]
    return found


def comparison_sections(records: Records) -> list[dict[str, Any]]:
    """What each recorded comparison is of, with its seed where there are several, and found."""
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    summaries: list[EvaluationSummary | ComparisonSummary]
    summaries = [run.summary for run in records.evaluations]
    summaries += [run.summary for run in records.comparisons]
    for summary in summaries:
        seeds[summary.data.name, summary.model.name].add(summary.seed)
    sections = []
    for one in records.comparisons:
        names = (one.summary.data.name, one.summary.model.name)
        seed = f", seed {one.summary.seed}" if len(seeds[names]) > 1 else ""
        sections.append({"title": f"{' · '.join(names)}{seed}", "summary": one.summary})
    return sections


def seed_sections(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """Per group of seeds a row for each curve and condition that several seeds have."""
    sections = []
    for group in groups:
        found = [(place, one) for place, one in group.combined.items() if len(one.by_seed) > 1]
        scale = interval_span(end for _, one in found for end in (one.low, one.high))
        rows = [
            legend_entry(one.map)
            | {
                "control": one.map.control,
                "condition": group.panels[0].condition_text(condition),
                "value": number(one.value),
                "interval": span(one.low, one.high),
                "glyph": interval_svg(one.value, one.low, one.high, scale, one.map.style.colour),
                "lowest": number(min(one.by_seed.values())),
                "highest": number(max(one.by_seed.values())),
                "seeds": len(one.by_seed),
            }
            for (_, condition), one in found
        ]
        links = [(panel.slug, panel.summary.seed) for panel in group.panels]
        score = group.panels[0].main.replace("_", " ")
        sections.append({"title": group.title, "score": score, "rows": rows, "links": links})
    return sections


def training_section(run: TrainingRun, slug: str) -> dict[str, Any]:
    """Loss and accuracy per epoch and the confusion of one training run."""
    summary, metrics = run.summary, run.metrics
    charts = []
    for name in ("accuracy", "loss"):
        lines = []
        for part, label, colour, dash in (
            ("train", "training", "#0072b2", ()),
            ("val", "validation", "#d55e00", (6.0, 2.0)),
        ):
            column = f"{part}/{name}"
            if column in metrics and metrics[column].notna().any():
                seen = metrics.loc[metrics[column].notna(), ["epoch", column]]
                style = Style(colour, dash, "o", label)
                lines.append(Line(part, style, seen["epoch"].tolist(), seen[column].tolist()))
        if lines:
            last = ", ".join(f"{line.style.label} ends at {line.y[-1]:.3f}" for line in lines)
            drawn = chart_svg(
                lines,
                name=f"{name} per epoch: {last}",
                x_title="epoch",
                percent_x=False,
                percent_y=name == "accuracy",
            )
            legend = [(swatch_svg(line.style), line.style.label) for line in lines]
            charts.append({"name": name, "svg": drawn, "legend": legend})
    return {
        "slug": slug,
        "title": title_of(summary.data.name, summary.model.name, run.pretrained),
        "charts": charts,
        "trained": summary.train.get("accuracy"),
        "in_evaluation": summary.train.get("in_evaluation"),
        "classes": summary.data.classes,
        "confusion": _confusion_rows(summary.confusion, summary.data.classes),
        "name": run.name,
    }


def environment_sections(records: Records) -> list[dict[str, Any]]:
    """The distinct machines and versions that the runs were made with."""
    found: dict[str, dict[str, Any]] = {}
    known_environments = [run.environment for run in records.evaluations]
    known_environments += [run.environment for run in records.trainings]
    for known in known_environments:
        versions = known.get("versions") or {}
        shown = {
            "hardware": hardware(known),
            "threads": str(known.get("threads") or "–"),
            "system": f"Python {known.get('python', '?')} on {known.get('platform', '?')}",
            "versions": ", ".join(f"{name} {value}" for name, value in versions.items() if value),
            "commit": _commit(known),
        }
        entry = found.setdefault(repr(shown), shown | {"count": 0})
        entry["count"] += 1
    return list(found.values())


def _warnings(run: EvaluationRun) -> list[str]:
    """Of the run's classifier and of this evaluator."""
    return [*run.summary.warnings, *run.found.facts.get("warnings", [])]


def _facts(panel: Panel) -> list[tuple[str, str]]:
    summary = panel.summary
    facts = [("images", f"{count_text(summary.data.images)} ({summary.data.split})")]
    if summary.accuracy:
        interval = summary.accuracy
        text = percent(interval.value)
        if interval.low is not None and interval.high is not None:
            text += f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
        facts.append(("accuracy", text))
    if panel.published:
        facts.append(("accuracy published", percent(panel.published.accuracy)))
    facts += [("evaluator", panel.runs[0].label), ("seed", str(summary.seed))]
    facts.append(("time", duration(sum(run.summary.seconds for run in panel.runs))))
    # What an evaluator says in words of a run's method.
    found = [(run.summary.method, run.found.facts.get("finding")) for run in panel.runs]
    return facts + [(label_of(method, ""), str(said)) for method, said in found if said]


def method_choice(panels: Sequence[Panel]) -> dict[str, Any]:
    """What the reader may choose: the maps of each method, methods of one map together."""
    maps = {one.key: one for panel in reversed(panels) for one in panel.maps}
    ordered = sorted(maps.values(), key=lambda one: (order_of(one.method, one.view), one.key))
    methods: dict[str, list[PanelMap]] = {}
    for one in ordered:
        methods.setdefault(one.method, []).append(one)
    groups: dict[str, list[dict[str, Any]]] = {}
    several = {method for method, mine in methods.items() if len(mine) > 1}
    for one in sorted(ordered, key=lambda one: (one.method not in several, one.control)):
        name, short = "controls" if one.control else "other methods", one.label
        if one.method in several:
            name = "gradient" if one.method == "gradient" else label_of(one.method, "")
            short = _within(name, one.label)
        told = {"view": one.view, "control": one.control, "short": short}
        groups.setdefault(name, []).append(legend_entry(one) | told)
    views = {one.view for one in ordered if one.method in several}
    return {"groups": groups, "views": [view for view in VIEWS if view in views]}


def _within(source: str, label: str) -> str:
    """ "positive" of "smoothgrad · positive", "original (n=20)" of "smoothgrad (n=20)"."""
    if label.startswith(f"{source} · "):
        return label.removeprefix(f"{source} · ")
    return f"original{label.removeprefix(source)}" if label.startswith(source) else label


_APART = 0.1


def _drawn(panel: Panel) -> str:
    """A sentence where images were asked for some of the fractions only."""
    facts = panel.found.facts
    if "draws" not in facts:
        return ""
    return (
        f"Each image was evaluated at {facts['draws']} of the {len(facts['fractions'])} fractions, "
        "drawn at random: mean areas and their intervals are right, a point of a curve is over "
        "the images that were evaluated there, and a single image's area is rough."
    )


def _sparse(panel: Panel) -> str:
    """A sentence where maps let the same protocol delete different shares of the pixels."""
    ends: dict[str, float] = {}
    for (key, condition, score), mean in panel.mean_of.items():
        # Insertion puts pixels back: what it has replaced at its end is what deletion spared.
        if score == "deleted" and condition[:1] == ("deletion",):
            ends[key] = min(ends.get(key, mean.value), mean.value)
    if not ends or max(ends.values()) - min(ends.values()) <= _APART:
        return ""
    labels = {one.key: one.label for one in panel.maps}
    least = min(ends, key=lambda key: ends[key])
    return (
        f"Maps deleted different shares of the pixels by the last fraction, from "
        f"{percent(ends[least])} ({labels[least]}) to {percent(max(ends.values()))}: where a map "
        "is 0 the protocol deletes nothing, so areas of sparse maps are of fewer pixels."
    )


def _better(panel: Panel) -> str:
    """ "smaller", "larger", or both with the conditions; empty for scores that only describe."""
    words = {"higher": "larger", "lower": "smaller"}
    by_word: dict[str, list[str]] = {}
    for condition in panel.conditions:
        better = panel.better(condition)
        if better is not None:
            by_word.setdefault(words[better], []).append(panel.condition_text(condition))
    if len(by_word) < 2:
        return next(iter(by_word), "")
    return "; ".join(f"{word} for {', '.join(names)}" for word, names in by_word.items())


def _confusion_rows(
    confusion: Sequence[Sequence[int]] | None, classes: Sequence[str]
) -> list[dict[str, Any]]:
    if not confusion or len(confusion) > _LARGEST_CONFUSION or len(classes) != len(confusion):
        return []
    rows = []
    for name, counts in zip(classes, confusion, strict=True):
        total = max(sum(counts), 1)
        rows.append({"name": name, "cells": [(count, count / total) for count in counts]})
    return rows


def _commit(environment: Mapping[str, Any]) -> str:
    commit = str(environment.get("commit") or "")[:10]
    return f"{commit} with local changes" if commit and environment.get("dirty") else commit or "–"
