"""The paper's own table: one row per data and model, the areas of six curves, the published ones.

A model with several seeds is one row, its areas combined over seeds and images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from saliency_lab.report.comparing.contrasts import beats
from saliency_lab.report.comparing.maps import Panel, follows_published, is_made_as_published
from saliency_lab.report.comparing.seeds import SeedGroup
from saliency_lab.report.drawing.notation import number, percent, span
from saliency_lab.reproductions.published import PUBLISHED_VIEWS, Published

_PLACES = [(fill, view) for fill, views in PUBLISHED_VIEWS.items() for view in views]


@dataclass(frozen=True)
class Cell:
    """An area with its interval, over so many seeds."""

    area: float
    low: float
    high: float
    seeds: int = 1


@dataclass(frozen=True)
class OverviewRow:
    """A row: `cells` by (fill, view), `seeds` of the classifiers it stands for."""

    title: str
    slug: str
    seeds: Sequence[int]
    accuracy: float | None
    paper: Published | None
    cells: Mapping[tuple[str, str], Cell]


def overview_rows(panels: Sequence[Panel], groups: Sequence[SeedGroup]) -> list[OverviewRow]:
    """One row per group of seeds and per panel outside of any, in the order of panels."""
    panels = [panel for panel in panels if follows_published(panel.found)]
    group_of = {panel.slug: group for group in groups for panel in group.panels}
    rows: list[OverviewRow] = []
    shown: set[str] = set()
    for panel in panels:
        group = group_of.get(panel.slug)
        if group is None:
            rows.append(_panel_row(panel))
        elif group.panels[0].slug not in shown:
            shown.add(group.panels[0].slug)
            rows.append(_group_row(group))
    return [row for row in rows if row.cells]


def reference_section(rows: Sequence[OverviewRow]) -> list[dict[str, Any]]:
    """The rows for the page: texts, and which area is the smallest of its three."""
    return [
        {
            "title": row.title,
            "slug": row.slug,
            "accuracy": "–" if row.accuracy is None else percent(row.accuracy),
            "paper": percent(row.paper.accuracy) if row.paper else "",
            "seeds": _seeds_text(row.seeds),
            "cells": [_cell_texts(row, fill, view) for fill, view in _PLACES],
        }
        for row in rows
    ]


def reference_table(rows: Sequence[OverviewRow]) -> pd.DataFrame:
    """The rows as a data frame, with the published number after each of ours."""
    lines = []
    for row in rows:
        line: dict[str, object] = {
            "panel": row.title,
            "seeds": len(row.seeds),
            "accuracy": row.accuracy,
            "accuracy (paper)": row.paper.accuracy if row.paper else None,
        }
        for place in _PLACES:
            name, cell = " ".join(place), row.cells.get(place)
            line[name] = cell.area if cell else None
            line[f"{name} (paper)"] = row.paper.areas[place] if row.paper else None
        lines.append(line)
    return pd.DataFrame(lines)


def findings(panels: Sequence[Panel]) -> list[str]:
    """One sentence per view of the paper: in how many panels it lowers the area."""
    panels = [panel for panel in panels if follows_published(panel.found)]
    sentences = []
    for fill, (_, *views) in PUBLISHED_VIEWS.items():
        for view in views:
            place = (f"gradient/{view}", ("deletion", fill))
            found = [
                panel.comparison_of[place]
                for panel in panels
                if place in panel.comparison_of and _compares_as_published(panel, place[0])
            ]
            if not found:
                continue
            start = f"{view.capitalize()}, {fill}-deletion:"
            lower = [comparison for comparison in found if comparison.difference < 0]
            sure = [c for c in lower if beats(c)]
            if len(found) == 1:
                word = "a significantly smaller" if sure else "a smaller" if lower else "no smaller"
                sentences.append(f"{start} {word} area than original.")
            else:
                sentences.append(
                    f"{start} a smaller area than original in {len(lower)} of {len(found)} "
                    f"panels, significantly in {len(sure)}."
                )
    return sentences


def _compares_as_published(panel: Panel, key: str) -> bool:
    """Whether a map and the one that it is compared with are both made as in the paper."""
    pair = {key, "gradient/original"}
    return panel.reference.key == "gradient/original" and pair <= _made_as_published(panel)


def _made_as_published(panel: Panel) -> set[str]:
    return {one.key for one in panel.maps if is_made_as_published(one)}


def _panel_row(panel: Panel) -> OverviewRow:
    known = _made_as_published(panel)
    means = {
        (fill, view): panel.mean_of.get((f"gradient/{view}", ("deletion", fill), "allegiance"))
        for fill, view in _PLACES
        if f"gradient/{view}" in known
    }
    return OverviewRow(
        title=panel.title,
        slug=panel.slug,
        seeds=[panel.summary.seed],
        accuracy=panel.summary.accuracy.value if panel.summary.accuracy else None,
        paper=panel.published,
        cells={at: Cell(mean.value, mean.low, mean.high) for at, mean in means.items() if mean},
    )


def _group_row(group: SeedGroup) -> OverviewRow:
    measured = [panel.summary.accuracy for panel in group.panels]
    values = [accuracy.value for accuracy in measured if accuracy]
    cells = {}
    for fill, view in _PLACES:
        found = group.combined.get((f"gradient/{view}", ("deletion", fill)))
        if found and is_made_as_published(found.map):
            cells[fill, view] = Cell(found.value, found.low, found.high, len(found.by_seed))
    return OverviewRow(
        title=group.title,
        slug="seeds",
        seeds=group.seeds,
        accuracy=float(np.mean(values)) if values else None,
        paper=group.panels[0].published,
        cells=cells,
    )


def _cell_texts(row: OverviewRow, fill: str, view: str) -> dict[str, Any]:
    cell = row.cells.get((fill, view))
    paper = row.paper.areas.get((fill, view)) if row.paper else None
    areas = [found.area for (its, _), found in row.cells.items() if its == fill]
    partial = cell is not None and cell.seeds < len(row.seeds)
    return {
        "value": number(cell.area) if cell else "–",
        "interval": span(cell.low, cell.high) if cell else "",
        "paper": f"{paper:.2f}" if paper is not None else "",
        "best": cell is not None and len(areas) > 1 and cell.area == min(areas),
        "seeds": _count_text(cell.seeds) if cell and partial else "",
    }


def _seeds_text(seeds: Sequence[int]) -> str:
    if len(seeds) < 2:
        return ""
    return f"{_count_text(len(seeds))} combined: {', '.join(map(str, seeds))}"


def _count_text(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"
