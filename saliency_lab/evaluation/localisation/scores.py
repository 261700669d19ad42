"""How well a map finds a mask of the evidence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.errors import UserError
from saliency_lab.inputs import given_maps, given_tensor


def localisation(
    maps: Tensor, masks: Tensor, *, generator: SampleGenerator | None = None
) -> dict[str, Tensor]:
    """Scores of maps against masks, each in [0, 1], higher being nearer to the mask.

    With N pixels of which n are evidence; tied pixels are dealt out evenly wherever order counts:

    - `roc_auc`: chance that a pixel of the evidence has a higher value than another one;
    - `energy_inside`: the share of the map's positive part that lies on the evidence;
    - `pointing_game`: whether the strongest pixel lies on it (Zhang et al. 2018, without their
      margin of 15 pixels);
    - `average_precision`: Σ (recall gained · precision) over the map's distinct values;
    - `best_iou`: the largest intersection over union of {map >= t} with the mask over all t;
    - `top_k`: the share of the n strongest pixels that lies on the evidence.

    A random map gets 1/2 for `roc_auc`; `mask_share` = n/N for `energy_inside`, `pointing_game`
    and `top_k`; on average `average_precision_chance` = (H + (n − 1)/(N − 1) · (N − H))/N with H
    the N-th harmonic number; for `best_iou`, which has no closed form, `best_iou_chance` is that
    of one random map. Where nothing or everything is evidence, and in a map without a positive
    value for `energy_inside`, there is nothing to be told and the answer is a random map's.

    Args:
        maps: (B, H, W), finite, higher is more important; tensors or NumPy arrays, as masks are.
        masks: bool (B, H, W), True on the evidence.
        generator: streams of the random map, one per image.

    Returns:
        The names above to float64 (B,), on the maps' device.

    Raises:
        UserError: maps that are not finite, masks that do not fit them.
    """
    masks = given_tensor(masks, "masks", "(B, H, W)")
    return localisation_scores(given_maps(maps), masks, generator)


def localisation_scores(
    maps: Tensor, masks: Tensor, generator: SampleGenerator | None
) -> dict[str, Tensor]:
    """`localisation` of maps that may be anything: what is not finite is left to the caller."""
    if masks.shape != maps.shape or maps.dim() != 3 or masks.dtype != torch.bool:
        raise UserError(
            f"Expected `masks` to be bool of the maps' shape {tuple(maps.shape)}, "
            f"but got {tuple(masks.shape)} of {masks.dtype}."
        )
    inside = masks.to(maps.device).flatten(1)
    drawn = restarted(generator, maps).uniform(maps[0].numel()).to(maps.device)
    count, pixels = inside.sum(1).double(), inside.shape[1]
    share = count / pixels
    harmonic = (1 / torch.arange(1, pixels + 1, dtype=torch.float64)).sum().item()
    precision = (harmonic + (count - 1) / max(pixels - 1, 1) * (pixels - harmonic)) / pixels
    chance = {
        "roc_auc": torch.full_like(share, 0.5),
        "energy_inside": share,
        "pointing_game": share,
        "average_precision": torch.where(count > 0, precision, share),
        "best_iou": _best_iou(_tie_groups(drawn, inside), count),
        "top_k": share,
    }
    found = _ranked(_tie_groups(maps.flatten(1), inside), count, pixels)
    found["energy_inside"] = energy_inside(maps, masks)
    telling = (count > 0) & (count < pixels)
    scores = {
        name: found[name].where(telling & found[name].isfinite(), value).clamp(0, 1)
        for name, value in chance.items()
    }
    return {
        **scores,
        "mask_share": share,
        "average_precision_chance": chance["average_precision"],
        "best_iou_chance": chance["best_iou"].where(telling, share),
    }


class _Groups(NamedTuple):
    """Pixels from the strongest to the weakest, those of one value a group that ends somewhere.

    All are (B, N); where no group ends, the numbers mean nothing.
    """

    end: Tensor
    """Whether a group ends here, bool."""
    taken: Tensor
    """Pixels up to here."""
    hits: Tensor
    """Of them on the evidence."""
    taken_before: Tensor
    """Pixels before the group that this one belongs to."""
    hits_before: Tensor
    """Of them on the evidence."""


def _tie_groups(values: Tensor, inside: Tensor) -> _Groups:
    ordered, order = values.sort(1, descending=True)
    end = torch.ones_like(inside)
    end[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    hits = inside.gather(1, order).double().cumsum(1)
    taken = torch.arange(1, values.shape[1] + 1, device=values.device).double().expand_as(hits)
    return _Groups(end, taken, hits, _before(taken, end), _before(hits, end))


def _before(counted: Tensor, end: Tensor) -> Tensor:
    """What was counted at the end of the group before."""
    at_ends = torch.where(end, counted, 0).cummax(1).values
    return torch.cat([torch.zeros_like(at_ends[:, :1]), at_ends[:, :-1]], 1)


def _ranked(groups: _Groups, count: Tensor, pixels: int) -> dict[str, Tensor]:
    gained, size = groups.hits - groups.hits_before, groups.taken - groups.taken_before
    missed, end = size - gained, groups.end
    area = (missed * (groups.hits_before + gained / 2) * end).sum(1)
    reached = end & (groups.taken_before < count[:, None]) & (groups.taken >= count[:, None])
    within = groups.hits_before + (count[:, None] - groups.taken_before) * gained / size
    first = end & (groups.taken_before == 0)
    return {
        "roc_auc": area / (count * (pixels - count)),
        "pointing_game": (groups.hits / groups.taken * first).sum(1),
        "average_precision": (gained * groups.hits / groups.taken * end).sum(1) / count,
        "best_iou": _best_iou(groups, count),
        "top_k": (within * reached).sum(1) / count,
    }


def _best_iou(groups: _Groups, count: Tensor) -> Tensor:
    union = groups.taken + count[:, None] - groups.hits
    return (groups.hits / union * groups.end).amax(1)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's positive part that lies on the mask, float64 (B,) in [0, 1].

    A map without a positive value tells nothing and gets the mask's share, as a random map does.

    Args:
        maps: (B, H, W).
        masks: bool (B, H, W).
    """
    inside = masks.to(maps.device).flatten(1)
    energy = maps.flatten(1).double().clamp_min(0)
    share = (energy * inside).sum(1) / energy.sum(1)
    return share.where(share.isfinite(), inside.double().mean(1)).clamp(0, 1)
