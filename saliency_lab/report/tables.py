"""The report's tables as data frames, and their CSV, Markdown and LaTeX texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from saliency_lab.report.figures import condition_name
from saliency_lab.report.palette import label_of
from saliency_lab.report.panels import Curve, Panel
from saliency_lab.report.paper import PAPER_VIEWS
from saliency_lab.report.records import Problem, TrainingRun

SHOWN_DISAGREEMENTS = 50


def area_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """One row per panel, method, view, condition and score: area, interval, difference, paper."""
    return pd.DataFrame(row for panel in panels for row in _area_rows(panel))


def reference_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """The paper's own layout: a row per model and data, areas of six curves, paper's beside."""
    rows = []
    for panel in panels:
        row: dict[str, object] = {"panel": panel.title}
        accuracy = panel.summary.accuracy
        row["accuracy"] = accuracy.value if accuracy else None
        row["accuracy (paper)"] = panel.paper.accuracy if panel.paper else None
        for fill, views in PAPER_VIEWS.items():
            for view in views:
                area = panel.area_of.get((f"gradient/{view}", "deletion", fill, "allegiance"))
                row[f"{fill} {view}"] = area.area if area else None
                paper = panel.paper
                row[f"{fill} {view} (paper)"] = paper.areas[fill, view] if paper else None
        if any(row[f"{fill} original"] is not None for fill in PAPER_VIEWS):
            rows.append(row)
    return pd.DataFrame(rows)


def run_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """One row per evaluation run: what was measured, on what, in what time."""
    rows = []
    for panel in panels:
        for run in panel.runs:
            summary, environment = run.summary, run.environment
            checkpoint, accuracy = summary.checkpoint or {}, summary.accuracy
            rows.append(
                {
                    "data": summary.data.name,
                    "split": summary.data.split,
                    "images": summary.data.images,
                    "model": summary.model.name,
                    "methods": ", ".join(c.label for c in panel.curves if c.run is run),
                    "protocol": summary.protocol,
                    "seed": summary.seed,
                    "epoch": checkpoint.get("epoch"),
                    "accuracy": accuracy.value if accuracy else None,
                    "low": accuracy.low if accuracy else None,
                    "high": accuracy.high if accuracy else None,
                    "seconds": summary.seconds,
                    "hardware": hardware(environment),
                    "started": str(environment.get("started") or "")[:16].replace("T", " "),
                    "skipped": sum(v for v in summary.skipped.values() if isinstance(v, int)),
                    "run": run.name,
                }
            )
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def training_table(trainings: Sequence[TrainingRun]) -> pd.DataFrame:
    """One row per training run: model, epochs, training and test accuracy, time."""
    rows = []
    for run in trainings:
        summary = run.summary
        rows.append(
            {
                "data": summary.data.name,
                "model": summary.model.name,
                "parameters": summary.model.parameters,
                "seed": summary.seed,
                "epochs": summary.epochs,
                "best epoch": (summary.best or {}).get("epoch"),
                "training accuracy": summary.train.get("accuracy"),
                "test accuracy": summary.test.get("accuracy"),
                "low": summary.test.get("low"),
                "high": summary.test.get("high"),
                "seconds": summary.seconds,
                "hardware": hardware(run.environment),
                "run": run.name,
            }
        )
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def cost_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """One row per measurement of cost: a method with the views that were computed together."""
    rows = []
    for panel in panels:
        for run in panel.runs:
            for name, cost in run.summary.cost.items():
                method, _, views = name.partition("/")
                labels = [label_of(method, view) for view in views.split("+")]
                rows.append({"panel": panel.title, "method": ", ".join(labels), **_flat(cost)})
    return pd.DataFrame(rows)


def disagreement_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """Per panel and condition the images whose area differs most between two methods.

    The area is the one under an image's own allegiance; the area under the probability breaks
    ties, of which a yes-or-no curve has many.
    """
    parts = [part for panel in panels for part in _disagreements(panel)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def problem_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """One row per run that could not be shown."""
    return pd.DataFrame([{"run": p.name, "state": p.state, "reason": p.reason} for p in problems])


def hardware(environment: Mapping[str, object]) -> str:
    """ "NVIDIA H100" or "AMD EPYC, 16 cores", as far as it was recorded."""
    gpu, cpu, cores = (environment.get(name) for name in ("gpu", "cpu", "cores"))
    if gpu:
        return ", ".join(map(str, gpu)) if isinstance(gpu, list) else str(gpu)
    parts = [str(cpu)] if cpu else []
    return ", ".join(parts + ([f"{cores} cores"] if cores else []))


def markdown_text(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown, numbers to four digits."""
    lines = [list(table.columns), ["---"] * len(table.columns), *_cells(table)]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def latex_text(table: pd.DataFrame) -> str:
    """The table as LaTeX for the booktabs package."""
    shown = pd.DataFrame(_cells(table), columns=[_escaped(str(c)) for c in table.columns])
    numeric = [pd.api.types.is_numeric_dtype(table[column]) for column in table.columns]
    return shown.map(_escaped).to_latex(
        index=False, column_format="".join("r" if right else "l" for right in numeric)
    )


def csv_text(table: pd.DataFrame) -> str:
    """The table as CSV with every digit."""
    return table.to_csv(index=False, lineterminator="\n")


def _area_rows(panel: Panel) -> Iterator[dict[str, object]]:
    for (key, mode, fill, score), area in panel.area_of.items():
        curve = next(curve for curve in panel.curves if curve.key == key)
        comparison = panel.comparison_of.get((key, mode, fill)) if score == "allegiance" else None
        yield {
            "panel": panel.title,
            "method": curve.label,
            "condition": condition_name(mode, fill),
            "score": score,
            "area": area.area,
            "low": area.low,
            "high": area.high,
            "difference": comparison.difference if comparison else None,
            "difference low": comparison.low if comparison else None,
            "difference high": comparison.high if comparison else None,
            "p": comparison.p if comparison else None,
            "p (Holm)": comparison.p_holm if comparison else None,
            "paper": paper_area(panel, curve, mode, fill) if score == "allegiance" else None,
        }


def paper_area(panel: Panel, curve: Curve, mode: str, fill: str) -> float | None:
    """The published area of this curve, where the paper reports one."""
    if panel.paper is None or curve.method != "gradient" or mode != "deletion":
        return None
    return panel.paper.areas.get((fill, curve.view))


def _disagreements(panel: Panel) -> Iterator[pd.DataFrame]:
    labels = {curve.key: curve.label for curve in panel.curves}
    for (mode, fill), part in panel.image_areas.groupby(["mode", "fill"]):
        areas = part.pivot_table(index="sample_id", columns="key", values="area")
        ties = part.pivot_table(index="sample_id", columns="key", values="probability")
        if areas.shape[1] < 2:
            continue
        ranked = areas + 1e-3 * ties.reindex(columns=areas.columns)
        found = pd.DataFrame(
            {
                "panel": panel.title,
                "condition": condition_name(str(mode), str(fill)),
                "image": ranked.index,
                "lowest": ranked.idxmin(axis=1).map(labels).to_numpy(),
                "lowest area": areas.min(axis=1).to_numpy(),
                "highest": ranked.idxmax(axis=1).map(labels).to_numpy(),
                "highest area": areas.max(axis=1).to_numpy(),
                "rank": (ranked.max(axis=1) - ranked.min(axis=1)).to_numpy(),
            }
        )
        found = found.sort_values(["rank", "image"], ascending=[False, True])
        yield found.drop(columns="rank").head(SHOWN_DISAGREEMENTS)


def _flat(cost: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in cost.items():
        if name == "peak_bytes" and isinstance(value, int | float):
            flat[f"{prefix}peak memory (MiB)"] = round(value / 2**20, 1)
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name} ")
        else:
            flat[f"{prefix}{name}".replace("_", " ")] = value
    return flat


def _cells(table: pd.DataFrame) -> list[list[str]]:
    return [[_cell(value) for value in row] for row in table.itertuples(index=False)]


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).split())


def _escaped(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "–": "--", "·": r"$\cdot$", "~": r"\textasciitilde{}"}
    marks |= {mark: f"\\{mark}" for mark in "&%$#_{}"} | {"^": r"\textasciicircum{}"}
    return "".join(marks.get(letter, letter) for letter in text)
