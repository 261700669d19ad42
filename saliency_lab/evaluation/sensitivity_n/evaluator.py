"""Sensitivity-n as an evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar

import pandas as pd
import torch
from annotated_types import Ge, Gt, Lt

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.perturbation import target_logits
from saliency_lab.evaluation.rows.format import IMAGE_COLUMNS
from saliency_lab.evaluation.sensitivity_n.pixels import SHARES, correlations, pixel_counts


class SensitivityN(Evaluator):
    """Correlation of the sum over random pixels and the drop of the logit, for several n.

    An image's score is the mean of its correlations over n.

    Args:
        shares: the values of n as shares of the pixels.
        samples: random sets of pixels per image and n; all views share them.
        baseline: the value that replaced pixels get.
    """

    scores: ClassVar[tuple[Score, ...]] = (Score("sensitivity_n", "higher", -1, 1),)
    keys: ClassVar[tuple[str, ...]] = ("share",)
    conditions: ClassVar[tuple[str, ...] | None] = ()

    def __init__(
        self,
        *,
        shares: Sequence[Annotated[float, Gt(0), Lt(1)]] = SHARES,
        samples: Annotated[int, Ge(3)] = 100,
        baseline: float = 0.0,
    ) -> None:
        if not shares:
            raise UserError("Expected `evaluator.sensitivity_n.shares` not to be empty")
        self.shares, self.samples, self.baseline = tuple(shares), samples, baseline

    def check(self, context: Context, name: str) -> None:
        """Refuse shares that leave no choice of pixels."""
        super().check(context, name)
        _, height, width = context.data.input_shape
        pixel_counts(self.shares, height * width)

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image, view and n."""
        found = correlations(
            context.model.logits,
            batch.image,
            torch.stack(list(maps.maps.values())),
            target_logits(maps.logits, maps.targets),
            maps.targets,
            context.generator(batch.ids, "sensitivity_n"),
            self.shares,
            self.samples,
            self.baseline,
        )
        for view, values in zip(maps.maps, found, strict=True):
            yield Measured(view, {"share": self.shares}, {"sensitivity_n": values})

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The mean over n, one row per image and view."""
        image = list(IMAGE_COLUMNS)
        groups = rows.groupby(image, observed=True, sort=False, as_index=False)
        return groups[["sensitivity_n"]].mean()
