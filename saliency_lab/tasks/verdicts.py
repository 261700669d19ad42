"""What a comparison leaves behind once it is decided: its summary and a sentence for each pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saliency_lab.evaluation.rows.decisions import Decision
from saliency_lab.runs.directory import CONFIG, finish, read_summary
from saliency_lab.runs.files import write_text
from saliency_lab.tasks.classifiers import told_checkpoint
from saliency_lab.tasks.pairs import Comparison


def given_verdicts(directory: Path) -> list[dict[str, Any]]:
    """What this directory's comparison was found to be so far, each rule once, oldest first."""
    known = read_summary(directory)
    earlier = list(known.get("earlier", []))
    if known.get("status") == "finished" and "rule" in known:
        told = ("a", "b", "condition", "verdict", "images")
        pairs = [{name: pair[name] for name in told} for pair in known["pairs"]]
        earlier.append({"rule": known["rule"], "pairs": pairs})
    last = {str(one["rule"]): one for one in earlier}
    return list(last.values())


def _rule(config: Mapping[str, Any], several: bool) -> dict[str, Any]:
    """What the error of verdicts depends on."""
    correction = config["correction"] if several else None
    return {"alpha": float(config["alpha"]), "kind": config["kind"], "correction": correction}


def finish_comparison(
    config: Mapping[str, Any],
    directory: Path,
    comparison: Comparison,
    made: Sequence[Decision],
    conditions: Sequence[Mapping[str, str]],
    drawn: int,
    population: int,
    earlier: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the summary, say how each pair was decided, and give the summary.

    A rule that is chosen after a look at another's verdict errs more often than it says. Asked
    again with another `tolerance` or `least` it does not: its bounds hold at any stop.
    """
    rule = _rule(config, len(made) > 1)
    earlier = [one for one in earlier if one["rule"] != rule]
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
        shares = config["correction"] == "e-bh" and len(entries) > 1
        entry["sentence"] = verdict_text(entry, population, alpha, shares=shares)
    summary = {
        "task": "compare",
        "data": {"name": config["data"]["name"], "split": config["split"], "images": population},
        "model": {"name": config["model"]["name"]},
        "seed": config["seed"],
        "checkpoint": told_checkpoint(config),
        "evaluator": comparison.label,
        "score": {"name": score.name, "better": evaluator.better(score.name, conditions[0])},
        "drawn": drawn,
        "kind": config["kind"],
        "correction": config["correction"] if len(entries) > 1 else None,
        "tolerance": config["tolerance"],
        "rule": rule,
        "earlier": earlier,
        "caution": _caution(earlier, rule),
        "remark": (
            "`difference` is the mean over the images drawn until the stop and biased by "
            "stopping there; `low` and `high` hold at any stop. They are about the images of this "
            "split and this classifier, not about other trainings."
        ),
        "pairs": entries,
        **(entries[0] if len(entries) == 1 else {}),
    }
    write_text(directory / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
    finish(directory, summary)
    for entry in entries:
        print(entry["sentence"])
    if earlier:
        print(summary["caution"])
    print(f"wrote {directory}")
    return summary


def _caution(earlier: Sequence[Mapping[str, Any]], rule: Mapping[str, Any]) -> str | None:
    """A sentence on what was asked before by other rules; None where nothing was."""
    if not earlier:
        return None
    asked = []
    for one in earlier:
        named = " ".join(f"{name}={value}" for name, value in one["rule"].items() if value)
        ends = ", ".join(
            f"{pair['verdict'] if pair['verdict'] == 'undecided' else pair[pair['verdict']]} "
            f"after {pair['images']:,} images"
            for pair in one["pairs"]
        )
        asked.append(f"{named}: {ends}")
    said = (
        f"asked before by other rules ({'; '.join(asked)}); one that is chosen after such a look "
        "errs more often than it says"
    )
    rules = [rule, *(one["rule"] for one in earlier)]
    if any(one["correction"] == "e-bh" for one in rules):
        return said  # shares of false verdicts do not add up to the probability of one
    total = min(1.0, sum(one["alpha"] for one in rules))
    return f"{said}, all of them together at most {100 * total:g} %"


def verdict_text(entry: Mapping[str, Any], population: int, alpha: float, *, shares: bool) -> str:
    """One sentence on a pair; with `shares` of several, of whose verdicts few are to be false."""
    bounds = (
        f"difference {entry['difference']:+.4f}, in [{entry['low']:+.4f}, {entry['high']:+.4f}]"
    )
    if shares:
        bounds += " by this pair alone"  # which may exclude 0 where the verdict, over all, is open
    if entry["verdict"] == "undecided":
        return (
            f"{entry['a']} against {entry['b']}: undecided after {entry['images']:,} of "
            f"{population:,} images ({bounds})"
        )
    winner, loser = ("a", "b") if entry["verdict"] == "a" else ("b", "a")
    error = "false verdicts" if shares else "error"
    return (
        f"{entry[winner]} beats {entry[loser]} after {entry['images']:,} of {population:,} images "
        f"({error} ≤ {100 * alpha:g} % however often you look; {bounds})"
    )
