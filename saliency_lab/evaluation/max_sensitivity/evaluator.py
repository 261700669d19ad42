"""Max-sensitivity as an evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.max_sensitivity.changes import largest_changes
from saliency_lab.evaluation.perturbation import require_finite_maps


class MaxSensitivity(Evaluator):
    """The largest relative change of a map over images that hardly differ.

    The explained class stays that of the intact image, and the method's own random numbers stay
    the image's, so that only the image moves.

    Args:
        radius: no value of an image moves further than this.
        samples: disturbed copies per image.
    """

    scores: ClassVar[tuple[Score, ...]] = (Score("max_sensitivity", "lower", 0),)
    role: ClassVar[Role] = "robustness"
    needs: ClassVar[frozenset[Need]] = frozenset({"source"})

    def __init__(
        self,
        *,
        radius: Annotated[float, Gt(0)] = 0.02,
        samples: Annotated[int, Ge(1)] = 10,
    ) -> None:
        self.radius, self.samples = radius, samples

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image and view."""

        def explain(images: Tensor) -> Mapping[str, Tensor]:
            moved = context.maps_of(images, batch.ids, maps.targets)
            return require_finite_maps(moved, maps.logits, f"images moved by {self.radius:g}")

        streams = context.generator(batch.ids, "max_sensitivity")
        found = largest_changes(explain, batch.image, maps.maps, streams, self.radius, self.samples)
        for view, values in found.items():
            yield Measured(view, {}, {"max_sensitivity": values})
