"""The report's tables as data frames, and their CSV, Markdown and LaTeX texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from saliency_lab.report.comparing.contrasts import beats
from saliency_lab.report.comparing.panels import Curve, Panel
from saliency_lab.report.comparing.seeds import SeedGroup
from saliency_lab.report.drawing.figures import condition_name
from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.reading.records import EvaluationRun, Problem, TrainingRun

SHOWN_DISAGREEMENTS = 50
_QUANTITIES = {
    "forwards": ("forward passes", 1.0),
    "backwards": ("backward passes", 1.0),
    "seconds": ("time (ms)", 1000.0),
    "bytes": ("memory (MiB)", 2.0**-20),
}


def area_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """One row per panel, method, view, condition and score: area, interval, difference, paper."""
    return pd.DataFrame(row for panel in panels for row in _area_rows(panel))


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
                    "methods": ", ".join(_labels(panel, run)),
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
                    "repeats": _repeated(panel, run),
                    "run": run.name,
                }
            )
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def seed_table(groups: Sequence[SeedGroup]) -> pd.DataFrame:
    """One row per group of seeds, curve and condition: the area over seeds and images."""
    return pd.DataFrame(
        {
            "panel": group.title,
            "method": one.curve.label,
            "condition": condition_name(mode, fill),
            "area": one.area,
            "low": one.low,
            "high": one.high,
            "lowest seed": min(one.by_seed.values()),
            "highest seed": max(one.by_seed.values()),
            "seeds": len(one.by_seed),
            "which": ", ".join(map(str, one.by_seed)),
        }
        for group in groups
        for (_, mode, fill), one in group.combined.items()
        if len(one.by_seed) > 1
    )


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
    """One row per measurement of cost: a method with the views that were computed together.

    Passes and times are per image; a column of zeros is left out.
    """
    rows = []
    for panel in panels:
        for run in panel.runs:
            for name, cost in run.summary.cost.items():
                method, _, views = name.partition("/")
                rows.append(
                    {"panel": panel.title, "method": _measured(method, views)} | _flat(cost)
                )
    table = pd.DataFrame(rows)
    return table.loc[:, (table.fillna(0) != 0).any()]


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


def _area_rows(panel: Panel) -> Iterator[dict[str, object]]:
    for (key, mode, fill, score), area in panel.area_of.items():
        curve = next(curve for curve in panel.curves if curve.key == key)
        comparison = panel.comparison_of.get((key, mode, fill)) if score == "allegiance" else None
        yield {
            "panel": panel.title,
            "method": curve.label,
            "control": curve.control,
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
            **(_against_controls(panel, key, mode, fill) if score == "allegiance" else {}),
        }


def _against_controls(panel: Panel, key: str, mode: str, fill: str) -> dict[str, object]:
    found = panel.control_of.get((key, mode, fill))
    if found is None:
        return {}
    return {
        "best control": label_of(found.b.method, found.b.view),
        "difference to control": found.difference,
        "control low": found.low,
        "control high": found.high,
        "p to control (Holm)": found.p_holm,
        "beats the controls": beats(found),
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
    """ "maps: forward passes" of "maps_forwards"; seconds become milliseconds, bytes MiB."""
    flat: dict[str, object] = {}
    for name, value in cost.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}_")
            continue
        part, _, quantity = f"{prefix}{name}".rpartition("_")
        words, factor = _QUANTITIES.get(quantity, (quantity.replace("_", " "), 1.0))
        scaled = value * factor if isinstance(value, int | float) and factor != 1 else value
        flat[_column(part, words)] = scaled
    return flat


def _measured(method: str, views: str) -> str:
    """ "active" of one view, "deeplift: original, active" of several measured together."""
    if "+" not in views:
        return label_of(method, views)
    source = "" if method == "gradient" else f"{label_of(method, '')}: "
    return source + ", ".join(views.split("+"))


def _column(part: str, words: str) -> str:
    if part == "peak":
        return f"peak {words}"
    return f"{part.replace('_', ' ')}: {words}" if part else words


def _labels(panel: Panel, run: EvaluationRun) -> list[str]:
    """The curves that the run measured: "active", or "deeplift: original, active" of several."""
    mine = {key for (name, *_), key in panel.key_of.items() if name == run.name}
    by_method: dict[str, list[Curve]] = {}
    for curve in panel.curves:
        if curve.key in mine:
            by_method.setdefault(curve.method, []).append(curve)
    labels = []
    for method, curves in by_method.items():
        if method == "gradient" or len(curves) == 1:
            labels += [curve.label for curve in curves]
        else:
            source = curves[0].label.replace(f" · {curves[0].view}", "")
            labels.append(f"{source}: {', '.join(curve.view for curve in curves)}")
    return labels


def _repeated(panel: Panel, run: EvaluationRun) -> str | None:
    """The run that is shown in place of this one, where everything was measured before."""
    if any(part[0] is run for part in panel.parts):
        return None
    keys = {key for (name, *_), key in panel.key_of.items() if name == run.name}
    return ", ".join(dict.fromkeys(part[0].name for part in panel.parts if part[3] in keys))
