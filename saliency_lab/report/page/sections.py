"""The page's sections as plain data for the template: texts, table cells and inline drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saliency_lab.report.comparing.contrasts import SIGNIFICANT, beats
from saliency_lab.report.comparing.panels import Condition, Curve, Panel
from saliency_lab.report.comparing.seeds import SeedGroup
from saliency_lab.report.drawing.figures import condition_name
from saliency_lab.report.drawing.notation import count_text, duration, number, p_text, percent, span
from saliency_lab.report.drawing.palette import VIEWS, Style, label_of, order_of
from saliency_lab.report.drawing.plots import Line, chart_svg, interval_svg, lines_of, swatch_svg
from saliency_lab.report.page.tables import hardware, paper_area
from saliency_lab.report.reading.records import Records, TrainingRun
from saliency_lab.reproductions.published import title_of

_LARGEST_CONFUSION = 20


def panel_section(panel: Panel) -> dict[str, Any]:
    """Charts, read-out and area tables of one panel."""
    summary = panel.summary
    styles = {curve.key: curve.style for curve in panel.curves}
    charts = []
    for mode, fill in panel.conditions:
        points = panel.points[(panel.points["mode"] == mode) & (panel.points["fill"] == fill)]
        name = condition_name(mode, fill)
        word = "inserted" if mode == "insertion" else "deleted"
        drawn = chart_svg(
            lines_of(points, styles),
            name=f"{panel.title}, {name}: allegiance against the share of pixels {word}; "
            "the values are in the table beside it",
            x_title=f"most salient pixels {word}",
        )
        charts.append({"name": name, "svg": drawn})
    return {
        "slug": panel.slug,
        "title": panel.title,
        "facts": _facts(panel),
        "charts": charts,
        "curves": [legend_entry(curve) for curve in panel.curves],
        "steps": len(summary.fractions),
        "areas": [_area_section(panel, condition) for condition in panel.conditions],
        "reference": panel.reference.label,
        "controlled": bool(panel.control_of),
        "better": _better(panel),
    }


def panel_values(panel: Panel) -> dict[str, Any]:
    """What the read-out needs: allegiance, low and high per curve, condition and fraction."""
    values: dict[str, list[list[list[float]] | None]] = {}
    for curve in panel.curves:
        values[curve.key] = []
        mine = panel.points[panel.points["key"] == curve.key]
        for mode, fill in panel.conditions:
            part = mine[(mine["mode"] == mode) & (mine["fill"] == fill)].sort_values("fraction")
            rows = part[["allegiance", "low", "high"]].round(4).to_numpy().tolist()
            values[curve.key].append(rows or None)
    return {"fractions": list(panel.summary.fractions), "values": values}


def seed_sections(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """Per group of seeds a row for each curve and condition that several seeds have."""
    sections = []
    for group in groups:
        found = [(place, one) for place, one in group.combined.items() if len(one.by_seed) > 1]
        largest = max((max(one.high, *one.by_seed.values()) for _, one in found), default=1.0)
        rows = [
            legend_entry(one.curve)
            | {
                "control": one.curve.control,
                "condition": condition_name(mode, fill),
                "area": number(one.area),
                "interval": span(one.low, one.high),
                "glyph": interval_svg(
                    one.area, one.low, one.high, largest or 1.0, one.curve.style.colour
                ),
                "lowest": number(min(one.by_seed.values())),
                "highest": number(max(one.by_seed.values())),
                "seeds": len(one.by_seed),
            }
            for (_, mode, fill), one in found
        ]
        links = [(panel.slug, panel.summary.seed) for panel in group.panels]
        sections.append({"title": group.title, "rows": rows, "links": links})
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
            if column in metrics:
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


def _facts(panel: Panel) -> list[tuple[str, str]]:
    summary = panel.summary
    facts = [("images", f"{count_text(summary.data.images)} ({summary.data.split})")]
    if summary.accuracy:
        interval = summary.accuracy
        text = percent(interval.value)
        if interval.low is not None and interval.high is not None:
            text += f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
        facts.append(("accuracy", text))
    if panel.paper:
        facts.append(("accuracy in the paper", percent(panel.paper.accuracy)))
    facts += [("protocol", summary.protocol), ("seed", str(summary.seed))]
    facts.append(("time", duration(sum(run.summary.seconds for run in panel.runs))))
    return facts


def legend_entry(curve: Curve) -> dict[str, str]:
    return {"key": curve.key, "label": curve.label, "swatch": swatch_svg(curve.style)}


def method_choice(panels: Sequence[Panel]) -> dict[str, Any]:
    """What the reader may choose: the curves of each source, sources of one curve together."""
    curves = {curve.key: curve for panel in reversed(panels) for curve in panel.curves}
    ordered = sorted(curves.values(), key=lambda c: (order_of(c.method, c.view), c.key))
    sources: dict[str, list[Curve]] = {}
    for curve in ordered:
        sources.setdefault(curve.method, []).append(curve)
    groups: dict[str, list[dict[str, Any]]] = {}
    several = {method for method, mine in sources.items() if len(mine) > 1}
    for curve in sorted(ordered, key=lambda curve: (curve.method not in several, curve.control)):
        name, short = "controls" if curve.control else "other sources", curve.label
        if curve.method in several:
            name = "gradient" if curve.method == "gradient" else label_of(curve.method, "")
            short = _within(name, curve.label)
        told = {"view": curve.view, "control": curve.control, "short": short}
        groups.setdefault(name, []).append(legend_entry(curve) | told)
    views = {curve.view for curve in ordered if curve.method in several}
    return {"groups": groups, "views": [view for view in VIEWS if view in views]}


def _within(source: str, label: str) -> str:
    """ "positive" of "smoothgrad · positive", "original (n=20)" of "smoothgrad (n=20)"."""
    if label.startswith(f"{source} · "):
        return label.removeprefix(f"{source} · ")
    return f"original{label.removeprefix(source)}" if label.startswith(source) else label


def _area_section(panel: Panel, condition: Condition) -> dict[str, Any]:
    mode, fill = condition
    areas = {
        curve.key: panel.area_of.get((curve.key, mode, fill, "allegiance"))
        for curve in panel.curves
    }
    largest = max((area.high for area in areas.values() if area), default=1.0) or 1.0
    # The paper's protocol is about allegiance alone; the files have every score.
    every = {key[3] for key in panel.area_of} if panel.summary.protocol != "paper" else set()
    scores = sorted(every - {"allegiance"})
    rows = []
    for curve in panel.curves:
        area = areas[curve.key]
        if area is None:
            continue
        paper = paper_area(panel, curve, mode, fill)
        others = [panel.area_of.get((curve.key, mode, fill, score)) for score in scores]
        rows.append(
            legend_entry(curve)
            | {
                "area": number(area.area),
                "interval": span(area.low, area.high),
                "glyph": interval_svg(area.area, area.low, area.high, largest, curve.style.colour),
                "paper": f"{paper:.2f}" if paper is not None else "",
                "others": [number(other.area if other else None) for other in others],
                **_difference(panel, curve, condition),
                **_standing(panel, curve, condition),
            }
        )
    return {
        "name": condition_name(mode, fill),
        "rows": rows,
        "scores": scores,
        "paper": any(row["paper"] for row in rows),
    }


def _difference(panel: Panel, curve: Curve, condition: Condition) -> dict[str, Any]:
    found = panel.comparison_of.get((curve.key, *condition))
    if found is None:
        return {"difference": "", "difference_interval": "", "p": "", "sure": False}
    p = found.p_holm if found.p_holm is not None else found.p
    return {
        "difference": number(found.difference),
        "difference_interval": span(found.low, found.high),
        "p": p_text(p),
        "sure": p is not None and p < SIGNIFICANT,
    }


def _standing(panel: Panel, curve: Curve, condition: Condition) -> dict[str, str]:
    """Whether the curve is a control, or a method that does no better than the best of them."""
    found = panel.control_of.get((curve.key, *condition))
    if curve.control or found is None or beats(found):
        return {"mark": "control" if curve.control else "", "mark_title": ""}
    best = label_of(found.b.method, found.b.view)
    distance = f"{number(found.difference)} {span(found.low, found.high)}"
    title = f"difference to {best}: {distance}, p {p_text(found.p_holm)}"
    return {"mark": "does not beat the controls", "mark_title": title}


def _better(panel: Panel) -> str:
    words = {"larger" if mode == "insertion" else "smaller" for mode, _ in panel.conditions}
    return "smaller (insertion: larger)" if len(words) > 1 else words.pop()


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
