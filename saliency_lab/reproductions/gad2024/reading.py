"""What the numbers of a column say, in sentences: no more than they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BOTH = -1
SIGNIFICANT = 0.05
COMPLEXITY, SENSITIVITY = "relative_complexity", "relative_sensitivity"
_NAMED = {
    "supplementary": "the supplementary mask",
    "retraining": "retraining alone",
    "random_subset": "a random subset of as many pixels",
    "top": "the top of the original map",
    "random_hull": "random hulls of equal area",
    "original": "the original's mask",
}


def conclusion(record: Mapping[str, Any]) -> str:
    """One sentence on a column: how many sources show what beyond the controls."""
    sources = record["sources"]
    shares = [_masks(found)["gad"].get("share_smaller", 0.0) for found in sources.values()]
    hull = _beating(sources, COMPLEXITY, ("retraining", "random_subset", "top"), lower=True)
    mask = _beating(sources, SENSITIVITY, ("retraining", "random_subset", "top"), lower=False)
    rest = _beating(sources, SENSITIVITY, ("supplementary",), lower=False)
    count = len(sources)
    return (
        f"GAD's hull is smaller than the original's on {min(shares):.0%} to {max(shares):.0%} of "
        f"the images, depending on the source, but smaller than that of every control with as "
        f"good a reason to shrink for {hull} of {count} sources; its mask matters more per pixel "
        f"than the supplementary one for {rest} of {count}, and more than every control for "
        f"{mask} of {count} (paired, Wilcoxon with Holm, p < {SIGNIFICANT})."
    )


def sentences(record: Mapping[str, Any]) -> Iterator[str]:
    """For each source: RC and RS of GAD against each control, with paired differences."""
    for source, found in record["sources"].items():
        masks = _masks(found)
        gad = masks["gad"]
        if COMPLEXITY not in gad:
            yield f"{source}: every image has a mask without a pixel; nothing can be compared."
            continue
        yield (
            f"{source}: RC < 1 on {gad['share_smaller']:.1%} of the images (retraining alone "
            f"{masks['retraining']['share_smaller']:.1%}, random subset "
            f"{masks['random_subset']['share_smaller']:.1%}, top "
            f"{masks['top']['share_smaller']:.1%}). " + _differences(found)
        )


def _differences(found: Mapping[str, Any]) -> str:
    parts = []
    for score, times, name in ((COMPLEXITY, 1, "RC"), (SENSITIVITY, 1000, "RS × 1,000")):
        told = [
            f"{_NAMED[pair['against']]} {times * pair['difference']:+.3f}"
            f"{'' if pair['p_holm'] < SIGNIFICANT else ' (not significant)'}"
            for pair in _pairs(found, score)
            if pair["against"] != "original"
        ]
        parts.append(f"{name} of GAD minus that of " + ", ".join(told))
    return "; ".join(parts) + f". {found['facts']['left_out']} images left out."


def _beating(
    sources: Mapping[str, Any], score: str, controls: tuple[str, ...], *, lower: bool
) -> int:
    """How many sources' GAD is significantly better than each of these controls."""
    count = 0
    for found in sources.values():
        pairs = [pair for pair in _pairs(found, score) if pair["against"] in controls]
        sign = -1 if lower else 1
        count += bool(pairs) and all(
            sign * pair["difference"] > 0 and pair["p_holm"] < SIGNIFICANT for pair in pairs
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
