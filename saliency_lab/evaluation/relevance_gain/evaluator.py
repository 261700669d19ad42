"""The symmetric relevance gain as an evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from torch import Tensor

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.deletion.removal import checked_fractions
from saliency_lab.evaluation.relevance_gain.orders import (
    Segments,
    gains,
    removal_orders,
    segment_labels,
)
from saliency_lab.imputation.fills import checked_fill, replacement
from saliency_lab.imputation.linear import Imputation


class RelevanceGainEvaluator(Evaluator):
    """Area with the least important removed first minus area with the most important first.

    Args:
        fills: what replaces removed pixels.
        segments: about how many superpixels are removed one after the other, or `pixels`.
        fractions: shares of them that are gone at each step; None: 0, 0.05, … 1.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("gain", "higher", -1, 1),
        Score("least_first", "higher", 0, 1),
        Score("most_first", "lower", 0, 1),
    )
    keys: ClassVar[tuple[str, ...]] = ("fill", "segments")

    def __init__(
        self,
        *,
        fills: Sequence[str] = ("mean",),
        segments: Sequence[Annotated[int, Ge(2)] | Literal["pixels"]] = (100, "pixels"),
        fractions: Sequence[Annotated[float, Ge(0)]] | None = None,
    ) -> None:
        if not fills or not segments:
            raise UserError(
                "Expected `evaluator.relevance_gain.fills` and `.segments` not to be empty"
            )
        self.fills = tuple(checked_fill(fill) for fill in fills)
        self.segments: tuple[Segments, ...] = tuple(segments)
        self.fractions = checked_fractions(fractions, "standard")
        if len(self.fractions) < 2:
            raise UserError(
                "Expected `evaluator.relevance_gain.fractions` to be two or more numbers"
            )

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image, view, fill and kind of superpixels."""
        fills = {fill: self._filled(context, batch, fill) for fill in self.fills}
        removals: dict[str, tuple[tuple[Tensor, Tensor], Tensor | Imputation]] = {}
        keys: dict[str, tuple[str, str, str]] = {}
        for segments in self.segments:
            labels = segment_labels(batch.image, segments)
            for view, values in maps.maps.items():
                orders = removal_orders(values, labels, self.fractions)
                for fill, filled in fills.items():
                    name = f"{view}/{fill}/{segments}"
                    removals[name] = orders, filled
                    keys[name] = view, fill, str(segments)
        found = gains(
            context.model.scores,
            batch.image,
            removals,
            self.fractions,
            maps.targets,
            maps.logits,
            context.model.scores_batch,
        )
        for name, (view, fill, label) in keys.items():
            yield Measured(view, {"fill": fill, "segments": label}, found[name]._asdict())

    def _filled(self, context: Context, batch: Batch, fill: str) -> Tensor | Imputation:
        return replacement(batch.image, fill, context.generator(batch.ids, "fill"))
