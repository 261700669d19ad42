"""On how few pixels a map puts its attribution, whatever its scale and sign."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saliency_lab.inputs import given_maps


def sparseness(maps: Tensor) -> Tensor:
    """The Gini index of |map|, float64 (B,): 0 where all pixels are alike, (n − 1)/n for a point.

    Args:
        maps: (B, H, W), finite. A map of zeros counts as constant.

    Source: Chalasani, Chen, Chowdhury, Jha, Wu, "Concise explanations of neural networks using
    adversarial training", 2020, section 5; Hurley and Rickard, "Comparing measures of sparsity",
    2009.
    """
    ordered = _shares(maps).sort(dim=1).values
    pixels = ordered.shape[1]
    weights = 2 * torch.arange(1, pixels + 1, device=ordered.device).double() - pixels - 1
    return ((ordered @ weights) / pixels).clamp(0, 1)


def entropy(maps: Tensor) -> Tensor:
    """The entropy in nats of |map| / Σ|map|, float64 (B,), from 0 to ln(H·W).

    Args:
        maps: (B, H, W), finite. A map of zeros counts as constant.

    Source: Bhatt, Weller, Moura, "Evaluating and aggregating feature-based model explanations",
    2020, definition 4 ("complexity").
    """
    shares = _shares(maps)
    found = -torch.xlogy(shares, shares).sum(1)
    return found.clamp(0, math.log(shares.shape[1]))


def effective_area(maps: Tensor) -> Tensor:
    """(Σ|map|)² / (H·W · Σmap²), float64 (B,), in (0, 1].

    A map that is constant on a share of the pixels and 0 elsewhere has that share: the inverse
    participation ratio, per pixel.

    Args:
        maps: (B, H, W), finite. A map of zeros counts as constant.
    """
    shares = _shares(maps)
    return 1 / (shares.shape[1] * shares.square().sum(1))


def _shares(maps: Tensor) -> Tensor:
    """|map| / Σ|map|, (B, H·W); the same everywhere for a map of zeros."""
    values = given_maps(maps).detach().flatten(1).double().abs()
    # Divided by the largest first, so that tiny maps do not vanish when they are squared.
    largest = values.amax(1, keepdim=True)
    values = torch.where(largest > 0, values / largest.clamp_min(1e-300), 1.0)
    return values / values.sum(1, keepdim=True)
