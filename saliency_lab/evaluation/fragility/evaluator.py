"""How far can a map be changed without a change that anyone sees or the classifier heeds?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.fragility.attack import (
    Attack,
    candidates,
    centre_of_mass,
    smooth_copy,
)
from saliency_lab.evaluation.randomisation.similarity import RANGES, SIMILARITIES, similarities


class Fragility(Evaluator):
    """Similarity of each map to the most different one that an attack finds near its image.

    All candidates of all starts that are still predicted the same are explained by the method
    itself, and the worst for the map counts: for `centre` the one whose centre of mass moved
    farthest, otherwise the one with the least overlap of most important pixels. Directions come
    from the map of the plain gradient on a copy with softplus for ReLU, whatever the method: for
    methods far from the gradient the attack is weaker than one made for them, and what it finds is
    an upper bound of the similarity. An image none of whose candidates keeps its prediction counts
    as unchanged.

    Args:
        attacks: any of `top_k`, `centre`, `random`.
        budget: largest change of a pixel, pixels being in [0, 1].
        steps: of each start.
        starts: within the budget, at random.
        share: of the pixels that count as most important.

    Source: Ghorbani, Abid, Zou, "Interpretation of neural networks is fragile", 2019.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("top_k", "higher", *RANGES["top_k"]),
        *(Score(name, "higher", *RANGES[name]) for name in SIMILARITIES if name != "top_k"),
        Score("displacement", "lower", 0, 1),
        Score("kept", None, 0, 1),
    )
    keys: ClassVar[tuple[str, ...]] = ("attack",)
    role: ClassVar[Role] = "robustness"
    needs: ClassVar[frozenset[Need]] = frozenset({"source"})

    def __init__(
        self,
        *,
        attacks: Sequence[Attack] = ("top_k", "centre", "random"),
        budget: Annotated[float, Gt(0), Le(1)] = 8 / 255,
        steps: Annotated[int, Gt(0)] = 10,
        starts: Annotated[int, Gt(0)] = 2,
        share: Annotated[float, Gt(0), Le(1)] = 0.1,
    ) -> None:
        if not attacks:
            raise UserError("Expected `evaluator.fragility.attacks` not to be empty")
        self.attacks, self.budget, self.steps = tuple(attacks), budget, steps
        self.starts, self.share = starts, share

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """Rows of every view and attack."""
        predicted = maps.logits.argmax(1)
        for attack in self.attacks:
            best = {
                view: self._compared(attack, intact, intact) for view, intact in maps.maps.items()
            }
            kept = torch.zeros(len(batch.ids), dtype=torch.float64, device=batch.image.device)
            for images in self._images(context, batch, attack, maps.targets):
                found = context.maps_of(images, batch.ids, maps.targets)
                # A candidate without finite logits and maps counts as predicted otherwise.
                same = found.finite & (context.model.logits(images).argmax(1) == predicted)
                kept += same.double() / (self.steps * self.starts)
                for view, values in found.maps.items():
                    tried = self._compared(attack, maps.maps[view], values)
                    better = same & (tried["worse"] > best[view]["worse"])
                    best[view] = {
                        name: torch.where(better, tried[name], value)
                        for name, value in best[view].items()
                    }
            for view, ratings in best.items():
                shown = {name: value for name, value in ratings.items() if name != "worse"}
                yield Measured(view, {"attack": attack}, {**shown, "kept": kept})

    def _images(
        self, context: Context, batch: Batch, attack: Attack, targets: Tensor
    ) -> Iterator[Tensor]:
        model = context.kept("fragility", lambda: smooth_copy(context.model.original))
        streams = context.generator(batch.ids, f"fragility/{attack}")
        for _ in range(self.starts):
            yield from candidates(
                attack, model, batch.image, targets, self.budget, self.steps, streams, self.share
            )

    def _compared(self, attack: Attack, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        values = similarities(before, after, share=self.share)
        moved = centre_of_mass(after.double()) - centre_of_mass(before.double())
        height, width = before.shape[1:]
        values["displacement"] = moved.norm(dim=1) / (height**2 + width**2) ** 0.5
        values["worse"] = values["displacement"] if attack == "centre" else -values["top_k"]
        return values
