"""Which pixels of a map count as important."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.inputs import given_maps

Rule = Literal["top", "above"]


def important_pixels(maps: Tensor, level: float = 0.5, rule: Rule = "top") -> Tensor:
    """The important pixels of each map; a pixel of value 0 never is one.

    Args:
        maps: (B, H, W), finite, never negative; a bool mask is its own answer. A tensor or a NumPy
            array.
        level: with `top` a share of all pixels, with `above` a share of the map's maximum.
        rule: `top` takes the round(level·H·W) largest values, ties by index; `above` takes the
            values greater than level times the largest.

    Returns:
        bool (B, H, W), on the maps' device.

    Raises:
        UserError: maps of another shape or that are not finite, or a level outside (0, 1].
    """
    return marked_pixels(given_maps(maps), level, rule)


def marked_pixels(maps: Tensor, level: float, rule: Rule) -> Tensor:
    """`important_pixels` of maps that may be anything: what is not finite is left to the caller."""
    if not 0 < level <= 1:
        raise UserError(f"Expected `level` to be greater than 0 and at most 1, but got {level}.")
    if maps.dtype == torch.bool:
        return maps
    if rule == "above":
        return (maps > level * maps.amax((1, 2), keepdim=True)) & (maps > 0)
    if rule != "top":
        raise unknown_choice("rule", rule, ("top", "above"))
    count = torch.full((len(maps),), round(level * maps[0].numel()) if len(maps) else 0)
    return largest(maps, count) & (maps > 0)


def largest(values: Tensor, counts: Tensor) -> Tensor:
    """The `counts[b]` largest values of image b, ties by index: bool, shape of values (B, H, W)."""
    flat = values.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    chosen = places < counts.to(flat.device)[:, None]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, chosen).view(values.shape)
