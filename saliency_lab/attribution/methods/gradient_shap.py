"""GradientSHAP: expected gradients over baselines, places on the path and noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, MinLen
from torch import Tensor, nn

from saliency_lab.attribution.core.baselines import Baseline, baseline_images
from saliency_lab.attribution.core.completeness import BaselineField
from saliency_lab.attribution.core.field import input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.attribution.core.sample_groups import copies_at_once
from saliency_lab.attribution.core.summed_field import StreamedField
from saliency_lab.attribution.methods.integrated_gradients import (
    SEVERAL,
    PathPoint,
    path_terms,
)
from saliency_lab.frozen import intact_logits


@input_gradients_only
def gradient_shap(
    model: nn.Module,
    images: Tensor,
    *,
    baselines: Annotated[Sequence[Baseline], MinLen(1)] = SEVERAL,
    samples: Annotated[int, Gt(0)] = 50,
    noise: Annotated[float, Ge(0)] = 0.0,
    stratified: bool = False,
    generator: SampleGenerator | None = None,
) -> BaselineField:
    """E over I⁰ and α of (Ĩ − I⁰) ∂S_c/∂I(I⁰ + α(Ĩ − I⁰)), Ĩ the image with noise added.

    Lundberg & Lee 2017 as implemented in SHAP's GradientExplainer (expected gradients, Erion et
    al. 2021, equation 3). The baselines take turns, so with `samples` a multiple of their number
    each has the same weight; α is uniform in [0, 1), one draw per image and sample. The draws are
    the same for every class, and as many at a time are in memory as one pass profits from.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        baselines: the distribution of I⁰.
        samples: draws per image.
        noise: standard deviation of the noise as a share of the image's own range (max − min).
        stratified: whether the n draws of a baseline take one α from each of n equal parts of
            [0, 1) (Owen 2013, section 8.4) instead of n from all of it: the same expectation, with
            a smaller error.
        generator: one stream per image.

    Returns:
        Signed field in logit units; its expectation sums to S_c(I) − mean of S_c(I⁰).
    """
    images = images.detach()
    flat = images.flatten(1)
    scale = noise * (flat.amax(1) - flat.amin(1))[:, None, None, None]
    turns = [baselines[sample % len(baselines)] for sample in range(samples)]

    def points() -> Iterator[PathPoint]:
        draws = restarted(generator, images)
        for sample, turn in enumerate(turns):
            start = baseline_images(images, turn, draws)
            place = draws.uniform(1, 1, 1).to(images)
            if stratified:
                part, first = divmod(sample, len(baselines))
                place = (part + place) / len(turns[first :: len(baselines)])
            end = images
            if noise:
                end = images + scale * draws.normal(*images.shape[1:]).to(images)
            yield start + place * (end - start), (end - start) / samples

    at_once = copies_at_once(model, images)
    return StreamedField(
        intact_logits(model, images).to(images.device),
        lambda: path_terms(model, points(), at_once),
        _mean_logits(model, images, turns, restarted(generator, images)),
    )


def _mean_logits(
    model: nn.Module, images: Tensor, turns: Sequence[Baseline], draws: SampleGenerator
) -> Tensor:
    """Mean logits of the baselines, each weighted by its turns; the noise baseline drawn once."""
    shares = {name: turns.count(name) / len(turns) for name in turns}
    logits = [
        share * intact_logits(model, baseline_images(images, name, draws))
        for name, share in shares.items()
    ]
    return torch.stack(logits).sum(0).to(images.device)
