"""What the numbers of a column say, in sentences: no more than they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saliency_lab.evaluation.hull.tables import BOTH
from saliency_lab.evaluation.rows.significance import SIGNIFICANT, is_significant

COMPLEXITY, SENSITIVITY = "relative_complexity", "relative_sensitivity"


def conclusion(record: Mapping[str, Any]) -> str:
    """One sentence on a column: how many sources show what beyond the controls."""
    sources = record["sources"]
    shares = [_masks(found)["gad"].get("share_smaller", 0.0) for found in sources.values()]
    hull = _beating(sources, COMPLEXITY, ("retraining", "random_subset", "top"), lower=True)
    mask = _beating(sources, SENSITIVITY, ("retraining", "random_subset", "top"), lower=False)
    rest = _beating(sources, SENSITIVITY, ("supplementary",), lower=False)
    count = len(sources)
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    on = f"{low} of the images"
    if low != high:
        on = f"{low} to {high} of the images, depending on the source"
    return (
        f"GAD's hull is smaller than the original's on {on}, but smaller than that "
        f"of every control with as good a reason to shrink for {hull} of {count} sources; its "
        f"mask matters more per pixel than the supplementary one for {rest} of {count}, and more "
        f"than every control for {mask} of {count} "
        f"(paired: interval without 0, and Wilcoxon with Holm, p < {SIGNIFICANT})."
    )


def sentences(record: Mapping[str, Any]) -> Iterator[str]:
    """For each source what the evaluator found: RC and RS of GAD against each control."""
    for source, found in record["sources"].items():
        yield f"**{source}.** {found['facts']['finding']}"


def _beating(
    sources: Mapping[str, Any], score: str, controls: tuple[str, ...], *, lower: bool
) -> int:
    """How many sources' GAD is significantly better than each of these controls."""
    count = 0
    for found in sources.values():
        pairs = [pair for pair in _pairs(found, score) if pair["against"] in controls]
        sign = -1 if lower else 1
        count += bool(pairs) and all(
            sign * pair["difference"] > 0
            and is_significant(pair["low"], pair["high"], pair["p_holm"])
            for pair in pairs
        )
    return count


def _masks(found: Mapping[str, Any]) -> dict[str, Any]:
    return {row["mask"]: row for row in found["facts"]["masks"] if row["label"] == BOTH}


def _pairs(found: Mapping[str, Any], score: str) -> list[Mapping[str, Any]]:
    return [
        pair
        for pair in found["facts"]["comparisons"]
        if pair["label"] == BOTH and pair["score"] == score
    ]
