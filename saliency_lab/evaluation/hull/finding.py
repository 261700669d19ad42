"""What the hull evaluator found of one run, in a sentence or two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saliency_lab.evaluation.hull.tables import BOTH
from saliency_lab.evaluation.rows.significance import is_significant

_SCORES = {"relative_complexity": ("RC", 1), "relative_sensitivity": ("RS × 1,000", 1000)}
_NAMED = {
    "supplementary": "the supplementary mask",
    "retraining": "retraining alone",
    "random_subset": "a random subset",
    "top": "the top of the original map",
    "random_hull": "random hulls of equal area (from GAD's filled hull)",
}


def finding(masks: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """RC and RS of GAD's mask beside those of every control, with paired differences.

    Args:
        masks, comparisons: rows of the evaluator's two tables, of both classes together or more.
    """
    of_mask = {row["mask"]: row for row in masks if row["label"] == BOTH}
    if "share_smaller" not in of_mask["gad"]:
        return "GAD's mask holds no pixel on any image; nothing can be compared."
    shares = [
        f"{_NAMED[name]} {of_mask[name]['share_smaller']:.1%}"
        for name in ("retraining", "random_subset", "top")
        if "share_smaller" in of_mask[name]
    ]
    said = f"RC < 1 on {of_mask['gad']['share_smaller']:.1%} of the images ({', '.join(shares)})"
    return "; ".join([said, *_differences(comparisons), *_empty(of_mask)]) + "."


def _empty(of_mask: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, told in {"gad": "GAD's mask", **_NAMED}.items():
        if gone := of_mask[name]["images"] - of_mask[name]["measured"]:
            images = "image" if gone == 1 else "images"
            yield f"without {gone} {images} on which {told} holds no pixel"


def _differences(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for score, (name, times) in _SCORES.items():
        told = []
        for pair in comparisons:
            if (pair["label"], pair["score"]) == (BOTH, score) and pair["against"] in _NAMED:
                sure = is_significant(pair["low"], pair["high"], pair["p_holm"])
                unsure = "" if sure else " (not significant)"
                told.append(f"{_NAMED[pair['against']]} {times * pair['difference']:+.3f}{unsure}")
        if told:
            yield f"{name} of GAD minus that of " + ", ".join(told)
