"""Does a map stay the same under changes of the image that leave its content?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.perturbation import require_finite_maps
from saliency_lab.evaluation.randomisation.similarity import RANGES, SIMILARITIES, similarities
from saliency_lab.evaluation.stability.perturbations import (
    IN_PLACE,
    Kind,
    Perturbed,
    compressed,
    flipped,
    noisy,
    rotated,
    rotation_margin,
    shifted,
)
from saliency_lab.evaluation.stability.relative import (
    relative_change,
    representations,
    worst_stability,
)

_RELATIVE = ("log_input_stability", "log_representation_stability", "log_output_stability")


class Stability(Evaluator):
    """Similarity of each map to the map of the same image, slightly changed.

    Shifts, flips and rotations are undone on the map before it is compared, and borders without
    content are left out. The class that is explained stays that of the intact image. Every
    similarity is averaged over the samples of a perturbation. A constant map is perfectly stable:
    stability is no proof of anything else.

    For noise and JPEG also the relative stabilities: the largest ratio, over the samples whose
    prediction is kept, of the map's relative change to that of the pixels (input), of what enters
    the last layer (representation) and of the logits (output, absolute change), as decadic
    logarithms; NaN where no sample keeps the prediction.

    Args:
        perturbations: any of `gaussian`, `jpeg`, `shift`, `flip`, `rotation`.
        samples: of each perturbation that draws.
        deviation: standard deviation of the Gaussian noise, pixels being in [0, 1].
        quality: of the JPEG.
        pixels: of the shift along each axis.
        degrees: of the rotation.
        share: of the most important pixels that `top_k` compares.

    Source: Agarwal et al., "Rethinking stability for attribution-based explanations", 2022.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        *(Score(name, "higher", *RANGES[name]) for name in SIMILARITIES),
        *(Score(name, "lower") for name in _RELATIVE),
        Score("agrees", None, 0, 1),
    )
    keys: ClassVar[tuple[str, ...]] = ("perturbation",)
    role: ClassVar[Role] = "robustness"
    needs: ClassVar[frozenset[Need]] = frozenset({"source"})

    def __init__(
        self,
        *,
        perturbations: Sequence[Kind] = ("gaussian", "jpeg", "shift", "flip", "rotation"),
        samples: Annotated[int, Gt(0)] = 4,
        deviation: Annotated[float, Gt(0)] = 0.05,
        quality: Annotated[int, Ge(1), Le(95)] = 50,
        pixels: Annotated[int, Gt(0)] = 2,
        degrees: Annotated[float, Gt(0), Lt(45)] = 5.0,
        share: Annotated[float, Gt(0), Le(1)] = 0.1,
    ) -> None:
        if not perturbations:
            raise UserError("Expected `evaluator.stability.perturbations` not to be empty")
        self.perturbations, self.samples = tuple(perturbations), samples
        self.deviation, self.quality = deviation, quality
        self.pixels, self.degrees, self.share = pixels, degrees, share

    def check(self, context: Context, name: str) -> None:
        super().check(context, name)
        side = min(context.data.input_shape[1:])
        if "shift" in self.perturbations and 2 * self.pixels >= side:
            raise UserError(
                f"Expected `evaluator.{name}.pixels` to be less than half of the images' shorter "
                f"side, {side}, but got {self.pixels}"
            )
        lost = 2 * rotation_margin(max(context.data.input_shape[1:]), self.degrees)
        if "rotation" in self.perturbations and lost >= side:
            raise UserError(
                f"Expected `evaluator.{name}.degrees` to leave some of the images' shorter side, "
                f"{side} pixels, in the picture, but {self.degrees:g} leave none"
            )

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """Rows of every view and perturbation."""
        intact = representations(context.model.original, batch.image)
        for kind in self.perturbations:
            streams = context.generator(batch.ids, f"stability/{kind}")
            count = 1 if kind in ("jpeg", "flip") else self.samples
            samples = [self._perturbed(kind, batch.image, streams) for _ in range(count)]
            yield from self._compared(context, batch, maps, intact, kind, samples)

    def _perturbed(self, kind: Kind, images: Tensor, streams: SampleGenerator) -> Perturbed:
        if kind == "gaussian":
            return noisy(images, self.deviation, streams)
        if kind == "jpeg":
            return compressed(images, self.quality)
        if kind == "shift":
            return shifted(images, self.pixels, streams)
        if kind == "flip":
            return flipped(images)
        return rotated(images, self.degrees, streams)

    def _compared(
        self,
        context: Context,
        batch: Batch,
        maps: Found,
        intact: tuple[Tensor, Tensor],
        kind: Kind,
        samples: Sequence[Perturbed],
    ) -> Iterable[Measured]:
        alike: dict[str, list[dict[str, Tensor]]] = {view: [] for view in maps.maps}
        changes: dict[str, list[Tensor]] = {view: [] for view in maps.maps}
        held: list[tuple[Tensor, Tensor, Tensor]] = []
        kept: list[Tensor] = []
        for sample in samples:
            moved = context.maps_of(sample.images, batch.ids, maps.targets)
            found = require_finite_maps(moved, maps.logits, f"perturbed images ({kind})")
            inside, logits = representations(context.model.original, sample.images)
            kept.append(logits.argmax(1) == intact[1].argmax(1))
            held.append(
                (
                    relative_change(batch.image, sample.images),
                    relative_change(intact[0], inside),
                    (intact[1] - logits).double().norm(dim=1),
                )
            )
            for view, values in found.items():
                before, after = sample.inner(maps.maps[view]), sample.inner(sample.restored(values))
                alike[view].append(similarities(before, after, share=self.share))
                changes[view].append(relative_change(before, after))
        agrees = torch.stack(kept).double().mean(0)
        for view in maps.maps:
            scores: Mapping[str, Tensor] = {
                name: torch.stack([one[name] for one in alike[view]]).mean(0)
                for name in SIMILARITIES
            }
            ratios = {
                name: worst_stability(changes[view], [sample[place] for sample in held], kept)
                if kind in IN_PLACE
                else torch.full_like(agrees, torch.nan)
                for place, name in enumerate(_RELATIVE)
            }
            yield Measured(view, {"perturbation": kind}, {**scores, **ratios, "agrees": agrees})
