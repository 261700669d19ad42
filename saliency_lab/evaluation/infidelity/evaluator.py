"""Infidelity as an evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.infidelity.perturbations import Perturbation, infidelities, moments
from saliency_lab.evaluation.perturbation import target_logits


class InfidelityEvaluator(Evaluator):
    """How much of the score's change under perturbations a map leaves unexplained.

    Args:
        perturbation: `noise` of standard deviation `size`, or a black `square` whose side is
            `size` of the image's.
        samples: perturbations per image; all views of a map are held against the same ones.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("infidelity", "lower", 0, 1),
        Score("residual", "lower", 0),
    )

    def __init__(
        self,
        *,
        perturbation: Perturbation = "noise",
        size: Annotated[float, Gt(0)] = 0.2,
        samples: Annotated[int, Ge(2)] = 100,
    ) -> None:
        if perturbation == "square" and size >= 1:
            raise UserError(f"Expected `evaluator.infidelity.size` to be below 1, but got {size}")
        self.perturbation: Perturbation = perturbation
        self.size, self.samples = size, samples

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image and view."""
        found = moments(
            context.model.logits,
            batch.image,
            torch.stack(list(maps.maps.values())),
            target_logits(maps.logits, maps.targets),
            maps.targets,
            context.generator(batch.ids, "infidelity"),
            self.perturbation,
            self.size,
            self.samples,
        )
        for view, scores in zip(maps.maps, infidelities(found, self.samples), strict=True):
            yield Measured(view, {}, scores._asdict())
