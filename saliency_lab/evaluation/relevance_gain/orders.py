"""In which order superpixels or pixels are removed, and the area between both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.attribution.core.superpixels import superpixel_labels
from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.deletion.removal import (
    area_under_curve,
    checked_fractions,
    deletion_levels,
)
from saliency_lab.evaluation.perturbation import Forward, lent
from saliency_lab.imputation.fills import replacement
from saliency_lab.imputation.linear import Imputation
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import given_batch

Segments = int | Literal["pixels"]


class RelevanceGain(NamedTuple):
    """Areas under the probability of the scored class; each is float64 (B,)."""

    gain: Tensor
    """least_first − most_first, in [−1, 1]."""

    least_first: Tensor
    """The least important goes first, in [0, 1]."""

    most_first: Tensor
    """The most important goes first, in [0, 1]."""


def relevance_gain(
    model: nn.Module | PreparedModel,
    images: Tensor,
    maps: Tensor,
    *,
    fill: str = "mean",
    segments: Segments = "pixels",
    fractions: Sequence[float] | None = None,
    targets: Tensor | int | None = None,
    generator: SampleGenerator | None = None,
) -> RelevanceGain:
    """The symmetric relevance gain: what it matters to remove by the map's order or against it.

    A value of 0 is what a random order gives on average. A superpixel counts with the mean of
    the map over its pixels; ties go by position in both orders alike, so a constant map gains 0.

    Args:
        model: from images (B, C, H, W) to logits (B, K), or a prepared one; left unchanged.
        images: floating, (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array.
        maps: (B, H, W), finite, higher is more important.
        fill: what replaces removed pixels, see `saliency_lab.imputation.fills.replacement`.
        segments: about how many superpixels (SLIC), or "pixels" for every pixel by itself.
        fractions: shares of the superpixels that are removed, ascending in [0, 1]; None: 0, 0.05,
            … 1. The areas are divided by their range.
        targets: the class whose probability is scored, (B,), or one for all; None: the predicted
            one.
        generator: random streams for fill="noise" and "road"; None: seeded by place.

    Raises:
        UserError: images, maps, logits or targets that do not fit or are not finite, an unknown
            fill, fractions out of order.

    Source: Blücher, Vielhaben, Strodthoff, "Decoupling pixel flipping and occlusion strategy for
    consistent XAI benchmarks", 2024, section 4.
    """
    steps = checked_fractions(fractions, "standard")
    images, maps = given_batch(images, maps)
    with lent(model, images, targets) as (forward, logits, classes):
        labels = segment_labels(images, segments)
        orders = removal_orders(maps, labels, steps)
        filled = replacement(images, fill, restarted(generator, images))
        found = gains(forward, images, {fill: (orders, filled)}, steps, classes, logits)
    return found[fill]


def segment_labels(images: Tensor, segments: Segments) -> Tensor | None:
    """Superpixels of each image, int64 (B, H, W); None where every pixel is its own.

    Raises:
        UserError: fewer than 2 superpixels.
    """
    height, width = images.shape[2:]
    if segments == "pixels":
        return None
    if segments < 2:
        raise UserError(f"Expected `segments` to be 2 or more or 'pixels', but got {segments}.")
    if segments >= height * width:
        return None
    return torch.stack([superpixel_labels(image, "slic", segments) for image in images])


def removal_orders(
    maps: Tensor, labels: Tensor | None, fractions: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Levels (see `deletion_levels`) of removing the least, and the most, important first.

    Args:
        maps: (B, H, W).
        labels: superpixels (B, H, W), see `segment_labels`.
        fractions: shares of the superpixels, or pixels, that are gone at each level.
    """
    if labels is None:
        least = deletion_levels(-maps, fractions, "standard")
        return least, deletion_levels(maps, fractions, "standard")
    pairs = [_superpixel_orders(*pair, fractions) for pair in zip(maps, labels, strict=True)]
    least, most = (torch.stack(side) for side in zip(*pairs, strict=True))
    return least, most


def gains(
    forward: Forward,
    images: Tensor,
    removals: Mapping[str, tuple[tuple[Tensor, Tensor], Tensor | Imputation]],
    fractions: Sequence[float],
    targets: Tensor,
    logits: Tensor,
    batch_size: int = 256,
) -> dict[str, RelevanceGain]:
    """The gain of each of several removals, (orders, fill) by name, in one pass of the model."""
    jobs = [
        MaskingJob(levels, fill, name=name)
        for name, (orders, fill) in removals.items()
        for levels in orders
    ]
    scores = masked_scores(
        forward, images, jobs, len(fractions), targets, batch_size=batch_size, intact=logits
    )
    width = fractions[-1] - fractions[0]
    areas = [area_under_curve(curve.probability, fractions) / width for curve in scores]
    return {
        name: RelevanceGain(least - most, least, most)
        for name, least, most in zip(removals, areas[::2], areas[1::2], strict=True)
    }


def _superpixel_orders(
    values: Tensor, labels: Tensor, fractions: Sequence[float]
) -> tuple[Tensor, Tensor]:
    flat = labels.flatten()
    count = torch.bincount(flat)
    sums = torch.zeros(len(count), dtype=torch.float64, device=values.device)
    means = sums.index_add_(0, flat, values.flatten().double()) / count
    least = deletion_levels(-means[None, None], fractions, "standard")[0, 0]
    most = deletion_levels(means[None, None], fractions, "standard")[0, 0]
    return least[labels], most[labels]
