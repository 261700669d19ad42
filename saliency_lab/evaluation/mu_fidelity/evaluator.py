"""MuFidelity as an evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.correlation import pearson, spearman
from saliency_lab.evaluation.mu_fidelity.subsets import drawn_subsets, subset_drops, subset_sums
from saliency_lab.evaluation.perturbation import target_logits


class MuFidelity(Evaluator):
    """Correlation, over random subsets of cells, of attribution and the drop of the logit.

    Args:
        grid: cells along each side.
        share: of the cells in every subset.
        samples: subsets per image; all views of a map are held against the same ones.
        baseline: the value that replaced pixels get.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("mu_fidelity", "higher", -1, 1),
        Score("rank_fidelity", "higher", -1, 1),
    )

    def __init__(
        self,
        *,
        grid: Annotated[int, Ge(2)] = 9,
        share: Annotated[float, Gt(0), Lt(1)] = 0.2,
        samples: Annotated[int, Ge(3)] = 200,
        baseline: float = 0.0,
    ) -> None:
        self.grid, self.share, self.samples = grid, share, samples
        self.baseline = baseline

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image and view: Pearson's correlation, and that of ranks."""
        generator = context.generator(batch.ids, "mu_fidelity")
        subsets = drawn_subsets(generator, self.grid, self.share, self.samples)
        subsets = subsets.to(batch.image.device)
        intact = target_logits(maps.logits, maps.targets)
        drops = subset_drops(
            context.model.logits, batch.image, subsets, self.baseline, intact, maps.targets
        )
        for view, values in maps.maps.items():
            sums = subset_sums(values, subsets)
            found = {"mu_fidelity": pearson(sums, drops), "rank_fidelity": spearman(sums, drops)}
            yield Measured(view, {}, found)
