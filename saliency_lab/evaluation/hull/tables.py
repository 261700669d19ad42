"""The rows of the hull evaluator as the two tables that it is read by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from saliency_lab.evaluation.hull.hulls import SHAPES
from saliency_lab.evaluation.rows.intervals import accuracy_interval, bootstrap_interval
from saliency_lab.evaluation.rows.significance import holm, paired_difference

BOTH = -1
"""In place of a label: the images of both classes."""
PIXELS = ("supplementary", "retraining", "random_subset", "top")
COMPARED = {
    "relative_complexity": [("gad", mask) for mask in PIXELS],
    "relative_sensitivity": [
        *(("gad", mask) for mask in (*PIXELS, "original")),
        ("gad_hull", "random_hull"),
    ],
}
"""Which masks are held against which, by score."""


def mask_table(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """One row per label (−1: both) and mask: counts over all images, means over those with pixels.

    A mask without a pixel has neither hull nor RS. Such an image is missing from the means of this
    mask alone: where GAD removes nothing, the supplementary mask is empty and GAD's RC is 1, and
    means without such images would flatter GAD.

    Columns: label, mask, images, `measured` (the mask holds a pixel); hulls that are `empty`, of
    `few` pixels, on a `line`; RC `smaller` than 1 and `equal` to it among all images with a hull
    that has an inside; `share_smaller` of the images measured with a 95 % interval (Wilson); means
    and intervals (bootstrap) of RC, RS and pixels.
    """
    found = []
    for label, part in _by_label(rows):
        for mask, group in part.groupby("mask", observed=True, sort=False):
            shapes = group["hull_shape"].map(dict(enumerate(SHAPES)))
            whole = group[(shapes == "whole").to_numpy()]
            kept = group[group["pixels"] > 0]
            row = {"label": label, "mask": mask, "images": len(group), "measured": len(kept)}
            row |= {shape: int((shapes == shape).sum()) for shape in SHAPES[1:]}
            row["smaller"] = int((whole["relative_complexity"] < 1).sum())
            row["equal"] = int((whole["relative_complexity"] == 1).sum())
            if len(kept):
                row |= _means(kept, resamples)
            found.append(row)
    return pd.DataFrame(found)


def comparison_table(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Pairs of masks on the same images, by label (−1: both) and score, as COMPARED lists them.

    The images of a pair are those on which both masks hold a pixel; without one there is no row.

    Columns: label, score, mask, against, images, the difference mask − against with its 95 %
    interval, share of the images where the mask's is larger, Wilcoxon's p, and Holm's over the
    pairs of a label and score.
    """
    found: list[dict[str, Any]] = []
    for label, part in _by_label(rows):
        kept = part[part["pixels"] > 0]
        for score, pairs in COMPARED.items():
            wide = kept.pivot(index="sample_id", columns="mask", values=score)
            rows_of = [
                _compared(values, mask, against, resamples)
                for mask, against in pairs
                if {mask, against} <= set(wide.columns)
                and len(values := wide[[mask, against]].dropna())
            ]
            corrected = holm([row["p"] for row in rows_of])
            for row, p in zip(rows_of, corrected, strict=True):
                found.append({"label": label, "score": score, **row, "p_holm": p})
    return pd.DataFrame(found)


def _compared(wide: pd.DataFrame, mask: str, against: str, resamples: int) -> dict[str, Any]:
    found = paired_difference(wide[mask], wide[against], resamples=resamples)
    return {
        "mask": mask,
        "against": against,
        "images": len(wide),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "share_larger": float((wide[mask] > wide[against]).mean()),
        "p": found.p,
    }


def _means(kept: pd.DataFrame, resamples: int) -> dict[str, float]:
    smaller = int((kept["relative_complexity"] < 1).sum())
    share = accuracy_interval(smaller, len(kept))
    row = {
        "share_smaller": float(share.value),
        "share_smaller_low": float(share.low),
        "share_smaller_high": float(share.high),
        "pixels": float(kept["pixels"].mean()),
    }
    for score in COMPARED:
        mean = bootstrap_interval(kept[score], resamples=resamples)
        row |= {
            score: float(mean.value),
            f"{score}_low": float(mean.low),
            f"{score}_high": float(mean.high),
        }
    return row


def _by_label(rows: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for label, part in rows.groupby("label", sort=True):
        yield int(label), part
    yield BOTH, rows


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain containers, without the cells that are empty."""
    return [
        {name: value for name, value in row.items() if value == value}
        for row in table.to_dict("records")
    ]
