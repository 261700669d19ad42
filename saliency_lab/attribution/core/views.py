"""Views of a signed per-class field: original, positive, negative, active, inactive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from saliency_lab.attribution.core.field import ClassField, expect_every_class
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.inputs import given_classes, whole_number

View = Literal["original", "positive", "negative", "active", "inactive"]

VIEWS: tuple[View, ...] = ("original", "positive", "negative", "active", "inactive")
"""The five views, in the order of the paper; the last two need a field per class."""
MULTI_CLASS: tuple[View, ...] = ("active", "inactive")

Channels = Literal["max", "sum", "l2"]

# From (B, C, H, W), never negative, to (B, H, W).
_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda field: field.amax(1),
    "sum": lambda field: field.sum(1),
    "l2": lambda field: field.square().sum(1).sqrt(),
}


def views(
    field: ClassField,
    targets: Tensor | int,
    names: Sequence[View],
    *,
    channels: Channels = "max",
    competitors: int | None = None,
) -> dict[str, Tensor]:
    """Unsigned maps of a field g, with ĉ the target, k a channel and R the reduction over k.

    ========  =====================================================================
    original  R_k abs(g_ĉ)
    positive  R_k ReLU(g_ĉ)
    negative  R_k ReLU(−g_ĉ)
    active    R_k abs(g_ĉ) · [g_ĉ > g_c for every c ≠ ĉ], decided per channel
    inactive  R_k abs(g_ĉ) · [g_ĉ < g_c for every c ≠ ĉ], decided per channel
    ========  =====================================================================

    The comparison is strict: an exact tie is neither active nor inactive. With one class alone
    there is no competitor to lose to, so active = inactive = original. The field is asked once
    for the targets and, only if active or inactive is wanted, once per competitor; of competitors
    only the running maximum and minimum are kept, so memory does not depend on K.

    Args:
        field: logits (B, K) and the signed field of any class.
        targets: the class ĉ of each image, int64 (B,), or one for all.
        names: which views, in the order of the answer.
        channels: R is the maximum, the sum, or the root of the sum of squares over k.
        competitors: compare with that many top-scoring classes other than the target only
            (ties in score: the lower class first); None compares with all K − 1.

    Returns:
        One map (B, H, W) per name: detached, unscaled, >= 0, float32 (float64 for a float64 field).

    Raises:
        UserError: an unknown view or reduction, targets that are no such classes, or competitors
            that are no number from 1 up.

    Source: Llorente, Boal, Sánchez-Úbeda, "A matter of attitude: Focusing on positive and active
    gradients to boost saliency maps", definitions of the five maps.
    """
    _check(names, channels, competitors)
    targets = given_classes(targets, field.logits, "targets")
    rivals_wanted = any(name in MULTI_CLASS for name in names)
    if rivals_wanted:
        expect_every_class(field)
    target_field = field.of(targets)
    # One place for all of them: large tensors that come and go cost more than they are worth.
    shown = torch.empty_like(target_field)
    kept: dict[str, Callable[[], Tensor]] = {
        "original": lambda: torch.abs(target_field, out=shown),
        "positive": lambda: torch.clamp_min(target_field, 0, out=shown),
        "negative": lambda: torch.neg(target_field, out=shown).relu_(),
    }
    if rivals_wanted:
        highest = torch.full_like(target_field, -torch.inf)
        lowest = torch.full_like(target_field, torch.inf)
        for classes in _competitors(field.logits, targets, competitors):
            rival = field.of(classes)
            torch.maximum(highest, rival, out=highest)
            torch.minimum(lowest, rival, out=lowest)
        above, below = target_field > highest, target_field < lowest
        kept["active"] = lambda: kept["original"]().mul_(above)
        kept["inactive"] = lambda: kept["original"]().mul_(below)
    dtype = torch.float64 if target_field.dtype == torch.float64 else torch.float32
    return {name: _REDUCTIONS[channels](kept[name]()).to(dtype) for name in names}


def _check(names: Sequence[str], channels: str, competitors: int | None) -> None:
    for name in names:
        if name not in VIEWS:
            raise unknown_choice("view.names", name, VIEWS)
    if channels not in _REDUCTIONS:
        raise unknown_choice("view.channels", channels, _REDUCTIONS)
    number = 1 if competitors is None else whole_number(competitors)
    if number is None or number < 1:
        raise UserError(
            "Expected `view.competitors` to be null or a whole number >= 1, but got "
            f"{competitors!r}."
        )


def _competitors(logits: Tensor, targets: Tensor, limit: int | None) -> Iterator[Tensor]:
    """Classes (B,) to compare with, one per image at a time, none of them an image's target."""
    classes = logits.shape[1]
    targets = targets.to(logits.device)
    if limit is None or limit >= classes - 1:
        # Going round the circle of classes from each image's own target never meets it again.
        for step in range(1, classes):
            yield (targets + step) % classes
        return
    others = logits.scatter(1, targets[:, None], -torch.inf)
    ranked = others.argsort(dim=1, descending=True, stable=True)[:, :limit]
    yield from ranked.unbind(1)
