"""Integrated gradients along the straight path from a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor, nn

from saliency_lab.attribution.core.baselines import Baseline, baseline_images
from saliency_lab.attribution.core.completeness import BaselineField
from saliency_lab.attribution.core.field import ClassField, input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.attribution.core.sample_groups import copies_at_once, copies_of, groups
from saliency_lab.attribution.core.summed_field import StreamedField, Term
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.frozen import intact_logits

PathPoint = tuple[Tensor, Tensor]

SEVERAL: tuple[Baseline, ...] = ("black", "white", "blur", "uniform")


@input_gradients_only
def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    *,
    baseline: Literal["black", "white", "mean", "blur", "uniform", "several"] = "black",
    steps: Annotated[int, Gt(0)] = 50,
    generator: SampleGenerator | None = None,
) -> BaselineField:
    """(I − I⁰) ∫₀¹ ∂S_c/∂I(I⁰ + α(I − I⁰)) dα (Sundararajan et al. 2017, equation 1).

    The integral is a Gauss-Legendre sum; as many points of the path at a time are in memory as one
    pass profits from.
    `completeness.completeness_error` tells per image how good the sum is.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        baseline: I⁰; `several` averages over black, white, blur and uniform, each with `steps`.
        steps: points on the path from each baseline.
        generator: one stream per image, for the uniform baseline.

    Returns:
        Signed field in logit units that sums to S_c(I) − S_c(I⁰) per image, up to the integral's
        error.
    """
    streams = restarted(generator, images)
    names: tuple[Baseline, ...] = SEVERAL if baseline == "several" else (baseline,)
    starts = [baseline_images(images, name, streams) for name in names]
    return integrated_field(model, images, starts, steps)


def integrated_field(
    model: nn.Module, images: Tensor, starts: Sequence[Tensor], steps: int
) -> BaselineField:
    """`integrated_gradients` from baselines of one's own: their mean over `starts`.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W).
        starts: baselines, each of shape (B, C, H, W).
        steps: points on the path from each baseline.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)

    def points() -> Iterator[PathPoint]:
        for start in starts:
            change = images.detach() - start
            for node, weight in zip(nodes, weights, strict=True):
                share = float(weight) / 2 / len(starts)
                yield start + float(node + 1) / 2 * change, share * change

    at_once = copies_at_once(model, images)
    logits = intact_logits(model, images).to(images.device)
    at_starts = torch.stack([intact_logits(model, start) for start in starts])
    return StreamedField(
        logits, lambda: path_terms(model, points(), at_once), at_starts.mean(0).to(images.device)
    )


def path_terms(model: nn.Module, points: Iterable[PathPoint], at_once: int) -> Iterator[Term]:
    """The sum over points of factor times gradient, some points of the path at a time.

    Args:
        model: any module from images to logits (B, K).
        points: places on the path and the factor of the gradient there, each (B, C, H, W).
        at_once: points of each image in one pass.
    """
    for group in groups(points, at_once):
        places, factors = zip(*group, strict=True)
        yield _weighted(gradient(model, torch.cat(places)), torch.stack(factors))


def _weighted(field: ClassField, factors: Tensor) -> Term:
    return lambda classes: (factors * copies_of(field, classes, len(factors))).sum(0)
