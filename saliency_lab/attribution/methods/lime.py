"""LIME on superpixels."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from saliency_lab.attribution.core.baselines import baseline_images
from saliency_lab.attribution.core.field import input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted, separate
from saliency_lab.attribution.core.superpixels import (
    Superpixels,
    segment_means,
    shown_logits,
    superpixel_labels,
)


@input_gradients_only
def lime(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: Annotated[int, Gt(1)] = 500,
    segments: Annotated[int, Gt(0)] = 50,
    superpixels: Superpixels = "slic",
    baseline: Literal["segment", "black", "white", "mean", "blur", "uniform"] = "segment",
    kernel_width: Annotated[float, Gt(0)] = 0.25,
    ridge: Annotated[float, Ge(0)] = 1.0,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """Coefficients of a weighted ridge regression of the logit on which superpixels are shown.

    Ribeiro et al. 2016, section 3.4 and algorithm 1, with the reference implementation's choices:
    each superpixel is shown with probability 1/2, the first sample shows all, the weight of a
    sample is sqrt(exp(−d²/width²)) with d the cosine distance to showing all.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        targets: the explained classes, int64, shape (B,).
        samples: altered copies per image.
        segments: about how many superpixels.
        superpixels: how they are made.
        baseline: what hides a superpixel; `segment` is its own mean colour.
        kernel_width: width of the weights, in units of the cosine distance.
        ridge: penalty on the squared coefficients; the intercept is free.
        generator: one stream per image.

    Returns:
        Shape (B, H, W), float32, signed, in logit units: a superpixel's coefficient.
    """
    images = images.detach()
    streams = restarted(generator, images)
    covers = None if baseline == "segment" else baseline_images(images, baseline, streams)
    found = []
    for index, own in enumerate(separate(streams)):
        image, target = images[index], int(targets[index])
        labels = superpixel_labels(image, superpixels, segments)
        cover = segment_means(image, labels) if covers is None else covers[index]
        shown = own.uniform(samples, int(labels.max()) + 1)[0] < 0.5
        shown[0] = True
        logits = shown_logits(model, image, cover, labels, shown, target)
        distance = 1 - shown.double().mean(1).sqrt()
        weights = torch.exp(-((distance / kernel_width) ** 2)).sqrt()
        found.append(ridge_coefficients(shown.double(), logits, weights, ridge)[labels.cpu()])
    return torch.stack(found).to(device=images.device, dtype=torch.float32)


def ridge_coefficients(features: Tensor, values: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """argmin over β of Σ w (y − β₀ − xβ)² + ridge·|β|², without β₀.

    Args:
        features: x, float64, shape (n, M).
        values: y, shape (n,).
        weights: w, shape (n,), not all 0.
        ridge: the penalty; with 0 and features that depend on one another, the shortest solution.

    Returns:
        β, shape (M,); NaN where a value is NaN or infinite.
    """
    if not bool(values.isfinite().all()):  # LAPACK would stop at it without a word of why
        return values.new_full((features.shape[1],), torch.nan)
    share = weights / weights.sum()
    x = features - share @ features
    y = values - share @ values
    root = weights.sqrt()
    penalty = ridge**0.5 * torch.eye(x.shape[1], dtype=x.dtype)
    left = torch.cat([root[:, None] * x, penalty])
    right = torch.cat([root * y, torch.zeros(x.shape[1], dtype=x.dtype)])
    return torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:, 0]
