"""KernelSHAP on superpixels."""

from __future__ import annotations

from itertools import product
from math import comb
from typing import Annotated, Literal

import torch
from annotated_types import Gt
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
def kernel_shap(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: Annotated[int, Gt(1)] = 500,
    segments: Annotated[int, Gt(0)] = 50,
    superpixels: Superpixels = "slic",
    baseline: Literal["segment", "black", "white", "mean", "blur", "uniform"] = "segment",
    generator: SampleGenerator | None = None,
) -> Tensor:
    """Shapley values of the superpixels for the logit, by Shapley-weighted least squares.

    Lundberg & Lee 2017, theorem 2; coalitions are drawn in complementary pairs (Covert & Lee 2021,
    section 3.3). With few enough superpixels that all coalitions fit into `samples`, they are all
    used and the values are exact. They always sum to S_c(image) − S_c(all hidden).

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        targets: the explained classes, int64, shape (B,).
        samples: altered copies per image, beside all shown and all hidden.
        segments: about how many superpixels.
        superpixels: how they are made.
        baseline: what hides a superpixel; `segment` is its own mean colour.
        generator: one stream per image.

    Returns:
        Shape (B, H, W), float32, signed, in logit units: a superpixel's Shapley value.
    """
    images = images.detach()
    streams = restarted(generator, images)
    covers = None if baseline == "segment" else baseline_images(images, baseline, streams)
    found = []
    for index, own in enumerate(separate(streams)):
        image, target = images[index], int(targets[index])
        labels = superpixel_labels(image, superpixels, segments)
        cover = segment_means(image, labels) if covers is None else covers[index]
        shown, weights = coalitions(int(labels.max()) + 1, samples, own)
        ends = torch.tensor([[True], [False]]).expand(2, shown.shape[1])
        logits = shown_logits(model, image, cover, labels, torch.cat([ends, shown]), target)
        values = shapley_values(shown.double(), weights, logits[2:], logits[0], logits[1])
        found.append(values[labels.cpu()])
    return torch.stack(found).to(device=images.device, dtype=torch.float32)


def coalitions(players: int, samples: int, generator: SampleGenerator) -> tuple[Tensor, Tensor]:
    """Coalitions and their weights in the regression.

    Returns:
        bool (n, players), none of them empty or full, and float64 (n,): every coalition with its
        Shapley kernel weight if they fit, else `samples` of them, drawn by that weight in
        complementary pairs, with equal weights.
    """
    if players < 2:
        return torch.zeros(0, players, dtype=torch.bool), torch.zeros(0, dtype=torch.float64)
    sizes = torch.arange(1, players, dtype=torch.float64)
    by_size = (players - 1) / (sizes * (players - sizes))
    if players < 40 and 2**players - 2 <= samples:
        rows = list(product((False, True), repeat=players))[1:-1]
        shown = torch.tensor(rows)
        size = shown.sum(1)
        ways = torch.tensor([comb(players, int(s)) for s in size], dtype=torch.float64)
        return shown, by_size[size - 1] / ways
    pairs = -(-samples // 2)
    edges = (by_size / by_size.sum()).cumsum(0)
    size = torch.searchsorted(edges, generator.uniform(pairs)[0].double()).clamp_max(players - 2)
    order = generator.uniform(pairs, players)[0].argsort(1)
    half = order.argsort(1) < (size + 1)[:, None]
    shown = torch.stack([half, ~half], 1).flatten(0, 1)[:samples]
    return shown, torch.ones(len(shown), dtype=torch.float64)


def shapley_values(
    shown: Tensor, weights: Tensor, values: Tensor, full: Tensor, empty: Tensor
) -> Tensor:
    """argmin over φ of Σ w (v − v(∅) − zφ)² with Σφ = v(all) − v(∅), float64, shape (players,).

    The last player's value is put in from the constraint; with fewer coalitions than players the
    shortest solution is taken. NaN where a value is NaN or infinite.
    """
    gain = full - empty
    if not bool(values.isfinite().all() and gain.isfinite()):
        return values.new_full((shown.shape[1],), torch.nan)
    if shown.shape[1] < 2:
        return gain[None]
    last = shown[:, -1]
    root = weights.sqrt()
    left = root[:, None] * (shown[:, :-1] - last[:, None])
    right = root * (values - empty - last * gain)
    first = torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:, 0]
    return torch.cat([first, (gain - first.sum())[None]])
