"""An evaluation's summary in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.drawing.terminal import print_table


def print_summary(summary: Mapping[str, Any], directory: Path, labels: Sequence[str]) -> None:
    """Warnings, then a table of each evaluator of the run."""
    complete = summary.get("completeness")
    if complete:
        print(
            f"completeness error: mean {complete['mean_error']:.2g}, max "
            f"{complete['max_error']:.2g}, of {complete['mean_change']:.3g} logits on average"
        )
    known = summary.get("estimate")
    if known:
        print(
            f"standard error of the maps: median {known['median_error']:.2g}, max "
            f"{known['max_error']:.2g}, in {known['mean_rounds']:.3g} rounds on average"
        )
    for warning in summary["warnings"]:
        print(f"warning: {warning}")
    for label in labels:
        found = summary["evaluators"][label]
        for warning in found["facts"].get("warnings", []):
            print(f"warning: {warning}")
        names = [score["name"] for score in found["scores"]]
        values: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
        for mean in found["means"]:
            key = (label_of(mean["method"], mean["view"]), *mean["condition"].values())
            values.setdefault(key, {})[mean["score"]] = mean
        rows = [[*key, *_cells(scores, names)] for key, scores in values.items()]
        title = ", ".join([f"{label}: {names[0]}", *_directions(found, names[0])])
        accuracy = summary["accuracy"]["value"]
        columns = ["map", *found["conditions"], names[0], "95 %", *names[1:], "images"]
        print_table(f"{title}; accuracy {accuracy:.4f}", columns, rows)
    print(f"wrote {directory}")


def _directions(found: Mapping[str, Any], score: str) -> list[str]:
    """Which way a score is better; where conditions differ, by the one that decides it."""
    means = [mean for mean in found["means"] if mean["score"] == score]
    if len({mean["better"] for mean in means}) == 1:
        return [f"{means[0]['better']} is better"] if means[0]["better"] else []
    for name in found["conditions"]:
        ways = {(mean["condition"][name], mean["better"]) for mean in means}
        if len({value for value, _ in ways}) == len(ways):
            return [f"{way} is better by {value}" for value, way in sorted(ways) if way]
    return []


def _cells(scores: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[object]:
    main = scores.get(names[0])
    first: list[object] = [None, ""]
    if main is not None:
        first = [main["value"], f"[{main['low']:.4f}, {main['high']:.4f}]"]
    others = [scores[name]["value"] if name in scores else None for name in names[1:]]
    return [*first, *others, max(mean["images"] for mean in scores.values())]
