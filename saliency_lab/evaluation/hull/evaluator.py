"""Do GAD's pixels span less and matter more, and how much of either do controls show as well?"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from annotated_types import Gt, Le
from torch import Tensor

from saliency_lab.attribution.core.importance import Rule, marked_pixels
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found, Method, Need
from saliency_lab.evaluation.hull.controls import random_hulls, random_subsets, top_pixels
from saliency_lab.evaluation.hull.finding import finding
from saliency_lab.evaluation.hull.hulls import Hulls, convex_hulls
from saliency_lab.evaluation.hull.sensitivity import changes_per_pixel
from saliency_lab.evaluation.hull.tables import comparison_table, mask_table, records

RESAMPLES = 1000

MASKS = (
    "gad",
    "supplementary",
    "retraining",
    "random_subset",
    "top",
    "gad_hull",
    "random_hull",
    "original",
)
"""
gad: the important pixels of the GAD map. supplementary: those of the original map without them.
retraining: the same intersection with support models of α = 0 alone. random_subset: as many
pixels as gad, drawn from the original's. top: as many, the original map's largest. gad_hull: the
filled hull of gad. random_hull: a random convex set of as many pixels as gad_hull. original: the
important pixels of the original map.
"""


class Hull(Evaluator):
    """RC and RS of GAD's mask, of the supplementary one and of controls that shrink alike.

    Each mask's hull is compared with the hull of the original map's important pixels, and each
    mask's pixels are blackened. The logit is that of the explained class.

    Args:
        level, rule: which pixels of a map are important, see `important_pixels`.

    Source: Rodrigues, Boutry, Najman 2024, RC and RS; the controls are this program's.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("relative_complexity", "lower", 0.0, 1.0),
        Score("relative_sensitivity", "higher", 0.0),
    )
    keys: ClassVar[tuple[str, ...]] = ("mask",)
    columns: tuple[str, ...] = (
        "relative_complexity",
        "relative_sensitivity",
        "pixels",
        "hull_pixels",
        "hull_shape",
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"source", "support"})

    def __init__(self, *, level: Annotated[float, Gt(0), Le(1)] = 0.5, rule: Rule = "top") -> None:
        self.level, self.rule = level, rule

    def check(self, context: Context, name: str) -> None:
        super().check(context, name)
        if not _support(context).retrained:
            raise UserError(
                f"Expected `method` to come with retrained models for evaluator={name}, "
                "but got support models alone"
            )

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterator[Measured]:
        masks = self._masks(context, batch, maps)
        original = convex_hulls(masks["original"]).areas
        intact = context.model.logits(batch.image)
        for name in MASKS:
            hulls = convex_hulls(masks[name])
            sensitivity = changes_per_pixel(
                context.model.logits, batch.image, masks[name], intact, maps.targets
            )
            values = {
                "relative_complexity": _ratio(hulls, original),
                "relative_sensitivity": sensitivity,
                "pixels": masks[name].sum((1, 2)),
                "hull_pixels": hulls.areas,
                "hull_shape": hulls.shapes,
            }
            yield Measured("original", {"mask": name}, values)

    def _masks(self, context: Context, batch: Batch, maps: Found) -> dict[str, Tensor]:
        """A mask (B, H, W) of each of MASKS, on the images' device."""
        keywords = context.method.source.keywords  # type: ignore[attr-defined]
        original = _map(context, batch, maps.targets, keywords.get("base", gradient))
        control = functools.partial(context.method.source, support=_support(context).as_control())
        retrained = _map(context, batch, maps.targets, control)
        important = functools.partial(marked_pixels, level=self.level, rule=self.rule)
        whole = important(original)
        # Under a threshold of another kind than the method's own it may leave the original's.
        kept = important(maps.maps["original"]) & whole
        counts = kept.sum((1, 2))
        hulls = convex_hulls(kept)
        subset = random_subsets(whole, counts, context.generator(batch.ids, "hull/subset"))
        anywhere = random_hulls(
            hulls.areas, _size(whole), context.generator(batch.ids, "hull/hulls")
        )
        return {
            "gad": kept,
            "supplementary": whole & ~kept,
            "retraining": important(retrained) & whole,
            "random_subset": subset,
            "top": top_pixels(original, counts),
            "gad_hull": hulls.filled.to(whole.device),
            "random_hull": anywhere.to(whole.device),
            "original": whole,
        }

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """Counts, means and paired differences from GAD's mask, by class and together."""
        masks = records(mask_table(rows, RESAMPLES))
        comparisons = records(comparison_table(rows, RESAMPLES))
        return {
            "finding": finding(masks, comparisons),
            "level": self.level,
            "rule": self.rule,
            "masks": masks,
            "comparisons": comparisons,
        }

    def tables(self, rows: pd.DataFrame, resamples: int) -> dict[str, pd.DataFrame]:
        return {
            "hull_masks": mask_table(rows, resamples),
            "hull_comparisons": comparison_table(rows, resamples),
        }


def _support(context: Context) -> Any:
    return context.method.source.keywords["support"]  # type: ignore[attr-defined]


def _size(masks: Tensor) -> tuple[int, int]:
    return masks.shape[1], masks.shape[2]


def _map(context: Context, batch: Batch, targets: Tensor, source: Any) -> Tensor:
    """The original view of another source of the same images, with the method's random numbers.

    Over channels it takes the maximum, as GAD does whatever `view.channels` says.
    """
    method = Method(context.method.name, source, ("original",), "max")
    other = dataclasses.replace(context, method=method)
    return other.maps_of(batch.image, batch.ids, targets).maps["original"]


def _ratio(hulls: Hulls, original: Tensor) -> Tensor:
    """RC (B,); NaN where a mask holds no pixel and so has no hull to be smaller."""
    known = (original > 0) & (hulls.areas > 0)
    return torch.where(known, hulls.areas.double() / original, torch.nan)
