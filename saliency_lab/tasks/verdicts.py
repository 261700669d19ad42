"""What a comparison leaves behind once it is decided: its summary and a sentence for each pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saliency_lab.evaluation.rows.decisions import Decision
from saliency_lab.runs.directory import finish
from saliency_lab.tasks.pairs import Comparison


def finish_comparison(
    config: Mapping[str, Any],
    directory: Path,
    comparison: Comparison,
    made: Sequence[Decision],
    conditions: Sequence[Mapping[str, str]],
    drawn: int,
    population: int,
) -> dict[str, Any]:
    """Write the summary, say how each pair was decided, and give the summary."""
    evaluator, score = comparison.evaluator, comparison.evaluator.scores[0]
    alpha = float(config["alpha"])
    entries: list[dict[str, Any]] = [
        {
            "a": pair[0],
            "b": pair[1],
            "condition": condition,
            **dataclasses.asdict(decision),
        }
        for pair, condition, decision in zip(comparison.pairs, conditions, made, strict=True)
    ]
    for entry in entries:
        entry["sentence"] = verdict_text(entry, population, alpha, config["correction"])
    summary = {
        "task": "compare",
        "data": {"name": config["data"]["name"], "split": config["split"], "images": population},
        "model": {"name": config["model"]["name"]},
        "seed": config["seed"],
        "checkpoint": {name: config["classifier"][name] for name in ("path", "sha256")},
        "evaluator": comparison.label,
        "score": {"name": score.name, "better": evaluator.better(score.name, conditions[0])},
        "drawn": drawn,
        "kind": config["kind"],
        "correction": config["correction"] if len(entries) > 1 else None,
        "tolerance": config["tolerance"],
        "remark": (
            "`difference` is the mean over the images drawn until the stop and biased by "
            "stopping there; `low` and `high` hold at any stop. They are about the images of this "
            "split and this classifier, not about other trainings."
        ),
        "pairs": entries,
        **(entries[0] if len(entries) == 1 else {}),
    }
    finish(directory, summary)
    for entry in entries:
        print(entry["sentence"])
    print(f"wrote {directory}")
    return summary


def verdict_text(entry: Mapping[str, Any], population: int, alpha: float, correction: str) -> str:
    """One sentence on a pair."""
    bounds = (
        f"difference {entry['difference']:+.4f}, in [{entry['low']:+.4f}, {entry['high']:+.4f}]"
    )
    if entry["verdict"] == "undecided":
        return (
            f"{entry['a']} against {entry['b']}: undecided after {entry['images']:,} of "
            f"{population:,} images ({bounds})"
        )
    winner, loser = ("a", "b") if entry["verdict"] == "a" else ("b", "a")
    error = "false verdicts" if correction == "e-bh" else "error"
    return (
        f"{entry[winner]} beats {entry[loser]} after {entry['images']:,} of {population:,} images "
        f"({error} ≤ {100 * alpha:g} % however often you look; {bounds})"
    )
