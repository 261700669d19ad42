"""Maps against masks of the evidence, and whether the classifier uses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import pandas as pd
import torch

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.localisation.scores import localisation_scores
from saliency_lab.evaluation.localisation.use import elsewhere, flips
from saliency_lab.imputation.fills import checked_fill, fill_for, replacement

# The evidence counts as used where covering it changes at least so many predictions, and covering
# as much beside it at most so many.
USED, UNUSED = 0.9, 0.1


class Localisation(Evaluator):
    """How well maps find the evidence, beside what a random map gets (see `localisation`).

    The columns `flips_inside` and `flips_outside` say of each image whether covering the evidence,
    or as much of the image beside it, changes the prediction: a classifier that does not use the
    evidence has no reason to show it. They do not depend on the map, and are NaN where there is
    nothing to cover.

    Args:
        fill: what covers pixels for that (see `replacement`).
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("roc_auc", "higher", 0, 1),
        Score("energy_inside", "higher", 0, 1),
        Score("pointing_game", "higher", 0, 1),
        Score("average_precision", "higher", 0, 1),
        Score("best_iou", "higher", 0, 1),
        Score("top_k", "higher", 0, 1),
        Score("mask_share", None, 0, 1),
        Score("average_precision_chance", None, 0, 1),
        Score("best_iou_chance", None, 0, 1),
        Score("flips_inside", None, 0, 1),
        Score("flips_outside", None, 0, 1),
    )
    role: ClassVar[Role] = "truth"
    needs: ClassVar[frozenset[Need]] = frozenset({"masks"})

    def __init__(self, *, fill: str = "mean") -> None:
        self.fill = checked_fill(fill)

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        masks = context.masks(batch)
        generator = context.generator(batch.ids, "localisation")
        fill = replacement(batch.image, self.fill, generator)
        beside = elsewhere(masks)
        logits = context.model.logits
        use = {
            name: flips(logits, batch.image, covered, fill_for(fill, covered))
            .double()
            .masked_fill(~covered.flatten(1).any(1), torch.nan)
            for name, covered in (("flips_inside", masks), ("flips_outside", beside))
        }
        for view, values in maps.maps.items():
            found = localisation_scores(values, masks, generator)
            yield Measured(view, values={**found, **use})

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """Whether the classifier was seen to use the evidence, and what a random map gets."""
        images = scores.drop_duplicates("sample_id")
        means = images.mean(numeric_only=True)
        inside, outside = float(means["flips_inside"]), float(means["flips_outside"])
        share = float(means["mask_share"])
        return {
            "fill": self.fill,
            "flips_inside": inside,
            "flips_outside": outside,
            "evidence_used": inside >= USED and outside <= UNUSED,
            "masks_that_tell_nothing": int((~images["mask_share"].between(0, 1, "neither")).sum()),
            "random_map": {
                "roc_auc": 0.5,
                "energy_inside": share,
                "pointing_game": share,
                "average_precision": float(means["average_precision_chance"]),
                "best_iou": float(means["best_iou_chance"]),
                "top_k": share,
            },
        }
