"""Maps against sanity tests: gates with their verdicts, and how steady maps are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from saliency_lab.report.comparing.grouping import measure_names
from saliency_lab.report.comparing.maps import Panel
from saliency_lab.report.drawing.notation import number, span
from saliency_lab.report.drawing.palette import order_of


def sanity_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """A row per classifier and map, a column per test: its value, interval and verdict.

    Gates give a column for each of their tests; evaluators of robustness one for each condition,
    with the main score and no verdict, for nobody knows how steady a map should be. A test under
    several settings is several tests; of one that was made on several sets of images the largest
    counts.
    """
    panels = [panel for panel in panels if panel.found.role in ("gate", "robustness")]
    name_of = measure_names([panel.runs[0].measure for panel in panels])
    cells: dict[tuple[str, str], dict[str, str]] = {}
    places: dict[tuple[str, str], tuple[Any, ...]] = {}
    for panel in sorted(panels, key=lambda panel: panel.images):
        title, name = panel.subject, name_of[panel.runs[0].measure].replace("_", " ")
        for one in panel.maps:
            found = _cells(panel, one.key, name)
            if found:
                key = title, one.label + (" (control)" if one.control else "")
                cells.setdefault(key, {}).update(found)
                places[key] = (title, one.control, order_of(one.method, one.view))
    rows = [
        {"classifier": title, "map": label, **cells[title, label]}
        for title, label in sorted(cells, key=lambda key: places[key])
    ]
    return pd.DataFrame(rows).fillna("–")


def _cells(panel: Panel, key: str, test: str) -> dict[str, str]:
    if panel.found.role == "gate":
        return _gate_cells(panel, key, test)
    cells = {}
    for condition in panel.conditions:
        mean = panel.main_mean(key, condition)
        if mean is not None:
            score = panel.main.replace("_", " ")
            parts = [test, panel.condition_text(condition)]
            name = f"{': '.join(part for part in parts if part)} ({score})"
            cells[name] = f"{number(mean.value)} {span(mean.low, mean.high)}"
    return cells


def _gate_cells(panel: Panel, key: str, gate: str) -> dict[str, str]:
    cells = {}
    for run in panel.runs:
        for entry in run.found.facts.get("gate", []):
            if panel.key_of.get((run.name, entry["method"], entry["view"])) != key:
                continue
            variant = entry.get("variant", "plain")
            asked = gate if variant == "plain" else f"{gate} ({variant})"
            for test in entry.get("tests", [entry]):
                name = f"{asked}: {test['test']}" if "test" in test else asked
                cells[name] = _tested(test)
    return cells


def _tested(test: Mapping[str, Any]) -> str:
    if test.get("value") is None:
        return str(test["verdict"])
    return f"{test['verdict']}, {number(test['value'])} {span(test['low'], test['high'])}"
