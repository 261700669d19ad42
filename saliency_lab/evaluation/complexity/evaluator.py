"""How concentrated maps are, as an evaluator: a description, not a verdict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.complexity.concentration import effective_area, entropy, sparseness
from saliency_lab.evaluation.context import Context, Found


class Complexity(Evaluator):
    """Gini index, entropy and effective area of a map.

    None of them says whether a map is right: a wrong one can lie on a single pixel.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("sparseness", None, 0, 1),
        Score("entropy", None, 0),
        Score("effective_area", None, 0, 1),
    )

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image and view."""
        for view, values in maps.maps.items():
            found = {
                "sparseness": sparseness(values),
                "entropy": entropy(values),
                "effective_area": effective_area(values),
            }
            yield Measured(view, {}, found)
