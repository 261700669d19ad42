"""Relative stability of a map: its relative change over that of what it explains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.frozen import intact_logits

# Stands for 0 in a denominator.
_LEAST = 1e-6


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """The Euclidean norm of (before − after) / before, entry by entry.

    An entry that is 0 before counts as 10⁻⁶ of the largest one, so that the result does not
    depend on the scale; maps with exact zeros therefore change a great deal.

    Args:
        before, after: (B, ...).

    Returns:
        Float64 (B,).
    """
    a, b = before.flatten(1).double(), after.flatten(1).double()
    largest = a.abs().amax(1, keepdim=True)
    floor = _LEAST * torch.where(largest == 0, 1.0, largest)
    return ((a - b) / torch.where(a == 0, floor, a)).norm(dim=1)


def worst_stability(
    maps: Sequence[Tensor], changes: Sequence[Tensor], kept: Sequence[Tensor]
) -> Tensor:
    """The decadic logarithm of the largest ratio over perturbations that keep the prediction.

    Args:
        maps: per perturbation the relative change of each map, (B,).
        changes: that of what the map is held against, (B,).
        kept: whether the perturbed image is predicted the same, bool (B,).

    Returns:
        Float64 (B,); NaN where no perturbation keeps the prediction. A map that does not change
        at all counts as one that changes by 10⁻⁶.

    Source: Agarwal et al., "Rethinking stability for attribution-based explanations", 2022,
    equations 2, 3 and 5.
    """
    ratios = torch.stack(
        [m.clamp_min(_LEAST) / c.clamp_min(_LEAST) for m, c in zip(maps, changes, strict=True)]
    )
    chosen = ratios.masked_fill(~torch.stack(list(kept)), -torch.inf).amax(0)
    return torch.where(chosen == -torch.inf, torch.nan, chosen).log10()


def representations(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the last linear or convolutional layer of a forward, (B, D), and the logits.

    Raises:
        UserError: the model has no such layer.
    """
    entered: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered[:] = [inputs[0].detach().flatten(1).float()]

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        logits = intact_logits(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    if not entered:
        raise UserError(
            "Expected `model` to have a linear or convolutional layer whose input is its last "
            f"representation, but {type(model).__name__} has none."
        )
    return entered[0].to(images.device), logits.float().to(images.device)
