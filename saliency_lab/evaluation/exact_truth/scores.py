"""How near a map comes to the known shares of patches."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from saliency_lab.attribution.core.views import View, views


class TruthField:
    """Known contributions as a field of every class, so that its views are those of any source.

    Args:
        contributions: (B, K, h, w), see `patch_contributions`.
        logits: (B, K), by which competitors are ranked.
    """

    def __init__(self, contributions: Tensor, logits: Tensor) -> None:
        self._contributions = contributions
        self.logits = logits.to(contributions.device)

    def of(self, classes: Tensor) -> Tensor:
        """The contributions to logit `classes[b]`, (B, 1, h, w)."""
        rows = torch.arange(len(classes), device=self._contributions.device)
        return self._contributions[rows, classes.to(rows.device)][:, None]


def true_views(
    contributions: Tensor,
    logits: Tensor,
    targets: Tensor,
    names: tuple[View, ...],
    competitors: int | None = None,
) -> dict[str, Tensor]:
    """What each view should show of the patches, (B, h, w), by the views' own definitions.

    With c the target's contribution: |c| (original), c⁺ (positive), c⁻ (negative), |c| where c is
    larger (active) or smaller (inactive) than that of every other class.
    """
    field = TruthField(contributions, logits)
    return views(field, targets, names, competitors=competitors)


def marked_patches(truth: Tensor, contribution: Tensor, view: View) -> Tensor:
    """The patches that a view's map should lie in, bool (B, h, w): those that its truth is not 0
    in; for `original`, which would be all of them, those that add to the target's logit.
    """
    return contribution > 0 if view == "original" else truth > 0


def patch_means(maps: Tensor, patch: int) -> Tensor:
    """The mean of each patch's pixels: (B, H, W) to (B, H / patch, W / patch)."""
    return F.avg_pool2d(maps[:, None], patch)[:, 0]


def rank_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of each image's values, (B, ...) twice to float64 (B,) in [−1, 1].

    Ties have their mean rank; where a or b is constant there is no order to agree with, and the
    answer is 0, as it is on average for a random map.
    """
    first, second = (_centred_ranks(values) for values in (a, b))
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    products = (first * second).sum(1)
    found = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return torch.from_numpy(found).clamp(-1, 1)


def energy_shares(maps: Tensor, marked: Tensor) -> tuple[Tensor, Tensor]:
    """The share of a map's positive part that lies in marked places, and a random map's.

    Args:
        maps: (B, ...).
        marked: bool, of the same shape.

    Returns:
        The share (B,) in [0, 1], and the expected one of a map whose values are dealt out at
        random, which is the share of the places that are marked. A map without a positive value
        shows nothing and gets the second number.
    """
    energy, inside = maps.double().flatten(1).clamp_min(0), marked.flatten(1)
    chance = inside.double().mean(1)
    total = energy.sum(1)
    share = (energy * inside).sum(1) / total.where(total > 0, torch.ones_like(total))
    return share.where(total > 0, chance).clamp(0, 1), chance


def sign_agreements(values: Tensor, truth: Tensor) -> Tensor:
    """How often signs agree: (B, ...) twice to (B,) in [0, 1]; 1/2 for random signs.

    The mean of two shares, over the places with positive and those with negative truth, so that
    one sign everywhere gets 1/2 as well; the one share where the truth has one sign only, and 1/2
    where it has none. A value of 0 counts half.
    """
    values, truth = values.double().flatten(1), truth.double().flatten(1)
    agreeing = (values.sign() * truth.sign() + 1) / 2
    shares, present = [], []
    for side in (truth > 0, truth < 0):
        count = side.sum(1)
        shares.append((agreeing * side).sum(1) / count.clamp_min(1))
        present.append(count > 0)
    there = torch.stack(present).double()
    total = (torch.stack(shares) * there).sum(0)
    half = torch.full_like(total, 0.5)
    return (total / there.sum(0).clamp_min(1)).where(there.sum(0) > 0, half)


def _centred_ranks(values: Tensor) -> np.ndarray:
    ranks = rankdata(values.flatten(1).double().cpu().numpy(), axis=1)
    return np.asarray(ranks - ranks.mean(1, keepdims=True))
