"""The report's tables as data frames, and their CSV, Markdown and LaTeX texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saliency_lab.report.comparing.contrasts import beats, best_control
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Condition, Panel, PanelMap, is_made_as_published
from saliency_lab.report.comparing.seeds import SeedGroup
from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.reading.records import ComparisonRun, EvaluationRun, Problem, TrainingRun

SHOWN_DISAGREEMENTS = 50
_QUANTITIES = {
    "forwards": ("forward passes", 1.0),
    "backwards": ("backward passes", 1.0),
    "seconds": ("time (ms)", 1000.0),
    "bytes": ("memory (MiB)", 2.0**-20),
}


def score_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """One row per panel, map, condition and score: mean, interval, difference, published."""
    return pd.DataFrame(row for panel in panels for row in _score_rows(panel))


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
                    "evaluator": run.label,
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
            "map": one.map.label,
            "condition": group.panels[0].condition_text(condition),
            "score": group.panels[0].main,
            "mean": one.value,
            "low": one.low,
            "high": one.high,
            "lowest seed": min(one.by_seed.values()),
            "highest seed": max(one.by_seed.values()),
            "seeds": len(one.by_seed),
            "which": ", ".join(map(str, one.by_seed)),
        }
        for group in groups
        for (_, condition), one in group.combined.items()
        if len(one.by_seed) > 1
    )


def comparison_table(comparisons: Sequence[ComparisonRun]) -> pd.DataFrame:
    """One row per pair of each comparison that stopped itself."""
    return pd.DataFrame(
        {
            "data": run.summary.data.name,
            "model": run.summary.model.name,
            "seed": run.summary.seed,
            "evaluator": run.summary.evaluator,
            "score": run.summary.score.name,
            "a": pair.a,
            "b": pair.b,
            "condition": ", ".join(pair.condition.values()),
            "verdict": pair.verdict if pair.verdict == "undecided" else getattr(pair, pair.verdict),
            "images": pair.images,
            "of": run.summary.data.images,
            "difference": pair.difference,
            "low": pair.low,
            "high": pair.high,
            "run": run.name,
        }
        for run in comparisons
        for pair in run.summary.pairs
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
                "in evaluation": (summary.train.get("in_evaluation") or {}).get("accuracy"),
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
    """One row per evaluator's run: a method with the views that were computed together.

    Passes and times are per image, of the maps as far as that command made any, and of the
    evaluator itself; a column of zeros is left out.
    """
    rows = []
    for panel in panels:
        for run in panel.runs:
            measured = _measured(run.summary.method, run.summary.views)
            rows.append({"panel": panel.title, "map": measured} | _named(run.found.cost))
    table = pd.DataFrame(rows)
    return table.loc[:, (table.fillna(0) != 0).any()]


def disagreement_table(panels: Sequence[Panel], known: Known | None = None) -> pd.DataFrame:
    """Per panel and condition the images whose main score differs most between two maps.

    Images that all maps score the same are left out. What is `known` need not be looked for again.
    """
    known = known or Known()
    return pd.DataFrame(row for panel in panels for row in known.of_panel(_disagreements, panel))


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


def _score_rows(panel: Panel) -> Iterator[dict[str, object]]:
    maps = {one.key: one for one in panel.maps}
    for (key, condition, score), mean in panel.mean_of.items():
        main = score == panel.main
        comparison = panel.comparison_of.get((key, condition)) if main else None
        yield {
            "panel": panel.title,
            "map": maps[key].label,
            "control": maps[key].control,
            "condition": panel.condition_text(condition),
            "score": score,
            "better": mean.better,
            "mean": mean.value,
            "low": mean.low,
            "high": mean.high,
            "images": mean.images,
            "difference": comparison.difference if comparison else None,
            "difference low": comparison.low if comparison else None,
            "difference high": comparison.high if comparison else None,
            "p": comparison.p if comparison else None,
            "p (Holm)": comparison.p_holm if comparison else None,
            "published": published_value(panel, maps[key], condition) if main else None,
            **(_against_controls(panel, key, condition) if main else {}),
        }


def _against_controls(panel: Panel, key: str, condition: Condition) -> dict[str, object]:
    found = panel.control_of.get((key, condition))
    control = best_control(panel, condition)
    if found is None or control is None:
        return {}
    return {
        "best control": control.label,
        "difference to control": found.difference,
        "control low": found.low,
        "control high": found.high,
        "p to control (Holm)": found.p_holm,
        "beats the controls": beats(found),
    }


def published_value(panel: Panel, one: PanelMap, condition: Condition) -> float | None:
    """The published area of this map, where a paper reports one of a map made like it."""
    if panel.published is None or condition[0] != "deletion" or not is_made_as_published(one):
        return None
    return panel.published.areas.get((condition[1], one.view))


def _disagreements(panel: Panel) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    labels = {one.key: one.label for one in panel.maps}
    names = panel.found.conditions
    others = [score.name for score in panel.found.scores if score.name != panel.main]
    groups = panel.scores.groupby(names, sort=False) if names else [((), panel.scores)]
    for condition, part in groups:
        values = part.pivot_table(index="sample_id", columns="key", values=panel.main)
        if values.shape[1] < 2:
            continue
        main = values.to_numpy()
        ties = np.zeros_like(main)
        if others:
            # A score of yes and no has many ties, which the next score breaks.
            second = part.pivot_table(index="sample_id", columns="key", values=others[0])
            ties = second.reindex_like(values).fillna(0.0).to_numpy()
        lowest = np.lexsort((ties, np.where(np.isnan(main), np.inf, main)))[:, :1]
        highest = np.lexsort((ties, np.where(np.isnan(main), -np.inf, main)))[:, -1:]
        names = values.columns.map(labels).to_numpy()
        span, tied = (
            np.take_along_axis(one, highest, 1) - np.take_along_axis(one, lowest, 1)
            for one in (main, ties)
        )
        found = pd.DataFrame(
            {
                "panel": panel.title,
                "condition": panel.condition_text(tuple(condition)),
                "image": values.index,
                "lowest": names[lowest[:, 0]],
                f"lowest {panel.main}": values.min(axis=1).to_numpy(),
                "highest": names[highest[:, 0]],
                f"highest {panel.main}": values.max(axis=1).to_numpy(),
                "span": span[:, 0],
                "tied": tied[:, 0],
            }
        )
        found = found[found["span"] > 0].sort_values(
            ["span", "tied", "image"], ascending=[False, False, True]
        )
        shown = found.drop(columns=["span", "tied"]).head(SHOWN_DISAGREEMENTS)
        rows += shown.to_dict("records")
    return rows


def _named(cost: Mapping[str, float]) -> dict[str, object]:
    """ "maps: forward passes" of "maps_forwards"; seconds become milliseconds, bytes MiB."""
    named: dict[str, object] = {}
    for name, value in cost.items():
        part, _, quantity = name.rpartition("_")
        words, factor = _QUANTITIES.get(quantity, (quantity.replace("_", " "), 1.0))
        named[_column(part, words)] = value * factor
    return named


def _measured(method: str, views: Sequence[str]) -> str:
    """ "active" of one view, "deeplift: original, active" of several measured together."""
    if len(views) == 1:
        return label_of(method, views[0])
    name = "" if method == "gradient" else f"{label_of(method, '')}: "
    return name + ", ".join(views)


def _column(part: str, words: str) -> str:
    if part in ("peak", "maps_peak"):
        return f"{part.replace('_', ' ')} {words}"
    return f"{part.replace('_', ' ')}: {words}" if part else f"evaluator: {words}"


def _labels(panel: Panel, run: EvaluationRun) -> list[str]:
    """The maps that the run measured: "active", or "deeplift: original, active" of several."""
    mine = {key for (name, *_), key in panel.key_of.items() if name == run.name}
    by_method: dict[str, list[PanelMap]] = {}
    for one in panel.maps:
        if one.key in mine:
            by_method.setdefault(one.method, []).append(one)
    labels = []
    for method, maps in by_method.items():
        if method == "gradient" or len(maps) == 1:
            labels += [one.label for one in maps]
        else:
            source = maps[0].label.replace(f" · {maps[0].view}", "")
            labels.append(f"{source}: {', '.join(one.view for one in maps)}")
    return labels


def _repeated(panel: Panel, run: EvaluationRun) -> str | None:
    """The run that is shown in place of this one, where everything was measured before."""
    if any(part[0] is run for part in panel.parts):
        return None
    keys = {key for (name, *_), key in panel.key_of.items() if name == run.name}
    return ", ".join(dict.fromkeys(part[0].name for part in panel.parts if part[3] in keys))
