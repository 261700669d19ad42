"""Prediction gaps on important and unimportant pixels as an evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar

import pandas as pd
import torch
from annotated_types import Ge, Gt, Lt

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.deletion.removal import checked_fractions, deletion_levels
from saliency_lab.evaluation.perturbation import target_probabilities
from saliency_lab.evaluation.pgi_pgu.gaps import FRACTIONS, gaps
from saliency_lab.evaluation.rows.format import IMAGE_COLUMNS


class PredictionGap(Evaluator):
    """How far the probability moves as important (PGI) or other (PGU) pixels are disturbed.

    An image's scores are the means over the fractions.

    Args:
        fractions: shares of the pixels that count as important.
        sigma: standard deviation of the noise.
        samples: of the noise; all views share them.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("pgi", "higher", 0, 1),
        Score("pgu", "lower", 0, 1),
    )
    keys: ClassVar[tuple[str, ...]] = ("fraction",)
    conditions: ClassVar[tuple[str, ...] | None] = ()

    def __init__(
        self,
        *,
        fractions: Sequence[Annotated[float, Gt(0), Lt(1)]] = FRACTIONS,
        sigma: Annotated[float, Gt(0)] = 0.2,
        samples: Annotated[int, Ge(1)] = 20,
    ) -> None:
        self.fractions = checked_fractions(fractions, "standard")
        self.sigma, self.samples = sigma, samples

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image, view and fraction."""
        levels = [
            deletion_levels(values, self.fractions, "standard") for values in maps.maps.values()
        ]
        found = gaps(
            context.model.logits,
            batch.image,
            torch.stack(levels),
            target_probabilities(maps.logits, maps.targets),
            maps.targets,
            context.generator(batch.ids, "pgi_pgu"),
            len(self.fractions),
            self.sigma,
            self.samples,
        )
        for view, values in zip(maps.maps, found, strict=True):
            yield Measured(view, {"fraction": self.fractions}, values._asdict())

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The means over the fractions, one row per image and view."""
        image = list(IMAGE_COLUMNS)
        groups = rows.groupby(image, observed=True, sort=False, as_index=False)
        return groups[["pgi", "pgu"]].mean()
