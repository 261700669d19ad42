"""Does a map change when the images are shifted and the network compensates for it?"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.constant_shift.compensation import compensated
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.randomisation.similarity import RANGES, SIMILARITIES, similarities
from saliency_lab.evaluation.rows.intervals import student_interval


class ConstantShift(Evaluator):
    """How much a map changes between two networks that compute the same of the same images.

    The second network takes images with a constant added to every pixel; the bias of its first
    layer takes the constant away again, and where the layer pads with zeros, the border is padded
    with the constant instead. Logits and gradients are the same, so that a map that explains the
    network's function stays as it is; one that refers to black (a product with the input, a path
    from a black image) changes with the meaning of black.

    In the summary, `passed` where the interval of the mean relative change lies below `tolerance`,
    and `failed` where it lies above it.

    Args:
        shifts: what is added to pixels in [0, 1], each a test of its own.
        tolerance: of the relative change.
        share: of the most important pixels that `top_k` compares.

    Source: Kindermans et al., "The (un)reliability of saliency methods", 2019.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("relative_change", "lower", 0),
        *(Score(name, "higher", *RANGES[name]) for name in SIMILARITIES),
    )
    keys: ClassVar[tuple[str, ...]] = ("shift",)
    role: ClassVar[Role] = "robustness"
    needs: ClassVar[frozenset[Need]] = frozenset({"source", "layers"})

    def __init__(
        self,
        *,
        shifts: Sequence[float] = (-1.0,),
        tolerance: Annotated[float, Gt(0)] = 0.01,
        share: Annotated[float, Gt(0), Le(1)] = 0.1,
    ) -> None:
        if not shifts or 0 in shifts:
            raise UserError(
                "Expected `evaluator.constant_shift.shifts` to be numbers other than 0, but got "
                f"{list(shifts)}."
            )
        self.shifts, self.tolerance, self.share = tuple(shifts), tolerance, share

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """Rows of every view and shift."""
        # Both without folded copies, which may settle an exact tie in another way.
        before = context.maps_of(batch.image, batch.ids, maps.targets, change=_as_it_is).maps
        for shift in self.shifts:
            made = functools.partial(_compensated, context, batch.image, shift)
            shifted = batch.image + shift
            after = context.maps_of(shifted, batch.ids, maps.targets, change=made).maps
            for view in before:
                values = similarities(before[view], after[view], share=self.share)
                change = relative_difference(before[view], after[view])
                yield Measured(view, {"shift": str(shift)}, {"relative_change": change, **values})

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """The verdict on every map and shift beside its interval and the tolerance."""
        table = []
        for (method, view, shift), group in rows.groupby(
            ["method", "view", "shift"], observed=True, sort=False
        ):
            change = group["relative_change"].dropna()
            if change.empty:
                continue
            value, low, high = map(float, student_interval(change))
            said = "undecided"
            if len(change) > 1:
                said = "passed" if high < self.tolerance else said
                said = "failed" if low > self.tolerance else said
            table.append({"method": method, "view": view, "shift": float(shift), "verdict": said,
                          "value": value, "low": low, "high": high})  # fmt: skip
        return {"gate": table, "tolerance": self.tolerance}


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _compensated(context: Context, images: Tensor, shift: float, model: nn.Module) -> nn.Module:
    """The network for shifted images; made once of each."""
    key = ("constant shift", shift, model)
    return context.kept(key, lambda: compensated(model, images, shift))


def relative_difference(before: Tensor, after: Tensor) -> Tensor:
    """Σ abs(after − before) / Σ abs(before) of maps (B, H, W), float64 (B,); 0 for equal maps.

    A map that was zero everywhere and is not any longer has changed by 1.
    """
    a, b = before.flatten(1).double(), after.flatten(1).double()
    change, size = (b - a).abs().sum(1), a.abs().sum(1)
    return torch.where(size == 0, (change > 0).double(), change / torch.where(size == 0, 1, size))
