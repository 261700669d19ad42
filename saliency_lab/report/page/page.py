"""The report: one self-contained page, and its figures and tables as files beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from saliency_lab.errors import UserError
from saliency_lab.report.comparing import agreement
from saliency_lab.report.comparing.degradation import degradation_table
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Panel
from saliency_lab.report.comparing.panels import compare_maps, grouped_panels
from saliency_lab.report.comparing.sanity import sanity_table
from saliency_lab.report.comparing.seeds import SeedGroup, apart_seeds, seed_groups
from saliency_lab.report.comparing.sizes import size_table
from saliency_lab.report.comparing.verdict import Verdict, verdicts
from saliency_lab.report.drawing.axes import AXES, AXIS_NAMES, Axis
from saliency_lab.report.drawing.palette import MAP_COLOURS
from saliency_lab.report.page import overview, sections, table_texts, tables
from saliency_lab.report.page import verdicts as verdict_texts
from saliency_lab.report.page.examples import SIDES, example_data, levels_bytes
from saliency_lab.report.page.figure_files import drawn_figures
from saliency_lab.report.page.table_files import write_tables
from saliency_lab.report.reading.records import Records, TrainingRun, read_records
from saliency_lab.runs.files import file_word, write_text

log = logging.getLogger(__name__)

PAGE_BYTES = 4_700_000
"""What the page may weigh: below 5 MB, with room for what is not counted here."""
EXAMPLE_BYTES = 1_000_000
"""What examples may weigh at least, on pages that many panels' charts and tables have filled."""
SHOWN = 50
"""Examples on the page; several panels share them, but none has fewer than a dozen
unless the page would be too large."""
_LEAST_SHOWN = 12
_COMPARISONS = ".comparisons.json"
_DATA = "\0data\0"
"""Stands for the data of the page's script, which are written last; no text of a run holds it."""


@dataclass(frozen=True)
class ReportFiles:
    """What a report wrote: the page first, then figures (PNG, PDF) and tables (CSV, MD, TeX)."""

    page: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    records: Records
    curves_over: Axis = "fraction"


def write_report(
    outputs: Path,
    runs: Sequence[str] | None,
    destination: Path,
    curves_over: Axis = "fraction",
) -> ReportFiles:
    """Read the runs under `outputs` and write index.html, figures/ and tables/.

    Args:
        outputs: the folder that holds train/ and evaluate/.
        runs: directories or patterns inside `outputs`; None takes every run.
        destination: where the report goes, usually outputs/report.
        curves_over: the axis of the curves in the figure files, and the one that the page shows
            first; areas are over the fraction whatever it is.

    Raises:
        UserError: there is no run at all, none that can be shown, or a name matches no run.
    """
    known = Known(destination / _COMPARISONS)
    records = read_records(outputs, runs, known.of_file)
    if not (records.evaluations or records.trainings or records.comparisons):
        states = "; ".join(f"{p.name}: {p.state}, {p.reason}" for p in records.problems)
        raise UserError(
            f"Expected '{outputs}' to hold a finished run, but got only {states}. "
            "Run `python -m saliency_lab train` first."
        )
    panels = grouped_panels(records.evaluations)
    for panel in panels:
        panel.curves_over = curves_over
    each = max(_LEAST_SHOWN, SHOWN // max(len(panels), 1))
    named = [(file_word(run.name.removeprefix("train/")), run) for run in records.trainings]
    page = destination / "index.html"
    # What is new is drawn by other processes while this one compares and writes.
    with drawn_figures(panels, each, named, destination / "figures", known) as figures:
        compare_maps(panels, known)
        groups, judged = seed_groups(panels, known), verdicts(panels, known)
        examples = [
            (panel, each) for panel in panels if known.of_panel(example_data, panel, each, 1)
        ]
        found = _tables(panels, groups, judged, records, known)
        written = write_tables(found, destination / "tables")
        shown = {name: table for name, table in found.items() if not table.empty}
        text = _page_text(records, panels, groups, judged, shown, examples, named, known)
        known.save()
        write_text(page, text)
    return ReportFiles(page, tuple(figures), tuple(written), records, curves_over)


def _page_text(
    records: Records,
    panels: Sequence[Panel],
    groups: Sequence[SeedGroup],
    judged: Sequence[Verdict],
    shown: Mapping[str, pd.DataFrame],
    examples: Sequence[tuple[Panel, int]],
    trainings: Sequence[tuple[str, TrainingRun]],
    known: Known,
) -> str:
    """The whole page as HTML; it asks for no other file."""
    values = {panel.slug: known.of_panel(sections.panel_values, panel) for panel in panels}
    content: dict[str, Any] = {
        "verdicts": verdict_texts.verdict_sections(judged),
        "comparisons": sections.comparison_sections(records),
        "panels": [known.of_panel(sections.panel_section, panel) for panel in panels],
        "reference": overview.reference_section(overview.overview_rows(panels, groups)),
        "findings": overview.findings(panels),
        "seeds": sections.seed_sections(groups),
        "apart": apart_seeds(panels),
        "trainings": [sections.training_section(run, slug) for slug, run in trainings],
        "environments": sections.environment_sections(records),
        "problems": records.problems,
        "tables": shown,
        "counts": {
            "evaluations": len({run.name for run in records.evaluations}),
            "trainings": len(records.trainings),
        },
        "examples": [(panel.slug, panel.title) for panel, _ in examples],
        "style": Markup(_template("page.css")),
        "script": Markup(_template("page.js")),
        "methods": sections.method_choice(panels),
        "axes": {axis: AXIS_NAMES[axis] for axis in AXES},
    }
    before, after = _rendered(content)
    taken = len(before) + len(after) + len(_json(_page_data(values, {})))
    room = max(PAGE_BYTES - taken, EXAMPLE_BYTES)
    shown_smallest = _example_data(examples, 1, known)
    pictures = len(_json(_page_data({}, shown_smallest)))
    least = pictures + _levels_bytes(examples, SIDES[-1], known)
    if least > room:
        share = room / least
        log.info("the page shows only %.0f %% of the examples to limit its size", 100 * share)
        examples = [
            (panel, max(1, int(share * len(shown_smallest[panel.slug]["items"]))))
            for panel, _ in examples
        ]
        pictures = len(_json(_page_data({}, _example_data(examples, 1, known))))
    side = next(
        (side for side in SIDES if _levels_bytes(examples, side, known) <= room - pictures),
        SIDES[-1],
    )
    return before + _json(_page_data(values, _example_data(examples, side, known))) + after


def _page_data(values: Mapping[str, Any], examples: Mapping[str, Any]) -> dict[str, Any]:
    colours = (mpl.colormaps[MAP_COLOURS](np.arange(256))[:, :3] * 255).round().astype(int)
    return {
        "colours": "".join(f"{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours),
        "panels": {slug: found for slug, found in values.items() if found},
        "examples": examples,
    }


def _example_data(examples: Sequence[tuple[Panel, int]], side: int, known: Known) -> dict[str, Any]:
    """What the page shows of each panel's examples, with level maps of that side."""
    return {
        panel.slug: known.of_panel(example_data, panel, count, side) for panel, count in examples
    }


def _levels_bytes(examples: Sequence[tuple[Panel, int]], side: int, known: Known) -> int:
    """About how many bytes of the page all level maps of that side take."""
    return sum(known.of_panel(levels_bytes, panel, count, side) for panel, count in examples)


def _rendered(content: Mapping[str, Any]) -> tuple[str, str]:
    """The page, up to where its script's data go and from there on."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": _cell, "code": _with_code, "drawing": Markup}
    page = environment.from_string(_template("page.html.j2"))
    before, after = page.render(**content, data=Markup(_DATA)).split(_DATA)
    return before, after


def _json(data: Mapping[str, Any]) -> str:
    # "<" could end the script element; \u003c means the same in JSON.
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _template(name: str) -> str:
    return files("saliency_lab.report.page").joinpath("templates", name).read_text(encoding="utf-8")


def _with_code(text: str) -> Markup:
    """The text with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts)
    )


def _cell(value: object, column: object = "") -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    decimals = table_texts.decimals_of(column)
    if isinstance(value, float) and decimals is not None:
        return f"{value:,.{decimals}f}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 10_000 and column != "seed":
        return f"{value:,}"
    return str(value)


def _tables(
    panels: Sequence[Panel],
    groups: Sequence[SeedGroup],
    judged: Sequence[Verdict],
    records: Records,
    known: Known,
) -> dict[str, pd.DataFrame]:
    return {
        "verdict": verdict_texts.verdict_table(judged),
        "agreement": verdict_texts.agreement_table(judged),
        "comparisons": tables.comparison_table(records.comparisons),
        "sanity": sanity_table(panels),
        "fills": agreement.fill_table(panels, known),
        "images": agreement.image_table(panels, known),
        "measures": agreement.measure_table(panels),
        "degraded": degradation_table(panels, known),
        "sizes": size_table(panels, known),
        "scores": tables.score_table(panels),
        "reference": overview.reference_table(overview.overview_rows(panels, groups)),
        "seeds": tables.seed_table(groups),
        "disagreement": tables.disagreement_table(panels, known),
        "evaluations": tables.run_table(panels),
        "trainings": tables.training_table(records.trainings),
        "cost": tables.cost_table(panels),
        "problems": tables.problem_table(records.problems),
    }
