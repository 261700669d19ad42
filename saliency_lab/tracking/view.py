"""The comparison of all methods as a W&B report: live panels over the runs, not copies of them."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

from saliency_lab.report.comparing.maps import Panel
from saliency_lab.report.reading.records import EvaluationRun
from saliency_lab.runs.directory import read_config

log = logging.getLogger(__name__)

_LINES = {"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"}


def saved_view(run: Any, panels: Sequence[Panel]) -> str | None:
    """Save the comparison in the run's project and return its address.

    None where the optional package wandb-workspaces is not installed or the server refuses it.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        log.info("W&B: the comparison view needs wandb-workspaces (pip install saliency-lab[view])")
        return None
    import wandb_workspaces.reports.v2 as reports

    try:
        report = reports.Report(
            project=run.project,
            entity=run.entity,
            title="Saliency maps compared",
            description="Made by `python -m saliency_lab report wandb=true`",
            blocks=view_blocks(run.entity, run.project, panels),
            width="fluid",
        )
        report.save()
    except ValueError as error:  # what it raises where the server's answer is not as it expects
        log.warning("W&B rejected the comparison view: %s", str(error).splitlines()[0])
        return None
    return str(report.url)


def view_blocks(entity: str, project: str, panels: Sequence[Panel]) -> list[Any]:
    """A heading and a grid for every classifier: charts of all maps, areas, example rows."""
    import wandb_workspaces.reports.v2 as reports

    blocks: list[Any] = []
    for panel in panels:
        runs = [
            reports.Runset(
                entity=entity,
                project=project,
                name=group,
                filters=f"JobType = 'evaluate' and Group = '{group}'",
            )
            for group in dict.fromkeys(_group(run) for run in panel.runs)
        ]
        shown: list[Any] = []
        label = panel.runs[0].label
        for condition in panel.conditions:
            place, words = "/".join(condition), panel.condition_text(condition)
            if panel.found.conditions == ["mode", "fill"]:
                shown.append(
                    reports.CustomChart(
                        query={"summaryTable": {"tableKey": f"charts/{label}/{place}_table"}},
                        chart_name="wandb/lineseries/v0",
                        chart_fields=_LINES,
                        chart_strings={"title": words, "xname": "fraction"},
                    )
                )
            score = "/".join(part for part in (label, place, panel.main) if part)
            # Runs of several maps have a metric per view below the name of a single map's.
            views = dict.fromkeys(f"{score}/{one.view}" for one in panel.maps)
            shown.append(reports.BarPlot(title=f"{panel.main} {words}", metrics=[score, *views]))
        tables = reports.WeavePanelSummaryTable(table_name="examples")
        blocks += [
            reports.H2(text=panel.title),
            reports.PanelGrid(runsets=runs, panels=[*shown, tables]),
        ]
    return blocks


def _group(run: EvaluationRun) -> str:
    group = (read_config(run.path).get("logger") or {}).get("group")
    return str(group or f"{run.summary.data.name}/{run.summary.model.name}")
