"""Random pixels of several numbers: does the sum of their attributions go with their loss?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted, separate
from saliency_lab.errors import UserError
from saliency_lab.evaluation.correlation import pearson
from saliency_lab.evaluation.perturbation import (
    Forward,
    altered_scores,
    lent,
    require_finite_altered,
    target_logits,
)
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import given_batch

SHARES = (0.01, 0.03, 0.1, 0.3, 0.6)


def sensitivity_n(
    model: nn.Module | PreparedModel,
    images: Tensor,
    maps: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    samples: int = 100,
    baseline: float = 0.0,
    targets: Tensor | int | None = None,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """Pearson's correlation of Σφ over n random pixels and the drop of the score without them.

    Args:
        model: from images (B, C, H, W) to logits (B, K), or a prepared one; left unchanged.
        images: floating, (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array.
        maps: (B, H, W), finite.
        shares: the values of n, as N shares of the pixels.
        samples: random sets of pixels per image and n.
        baseline: the value that replaced pixels get.
        targets: the class whose logit is scored, (B,), or one for all; None: the predicted one.
        generator: random streams of the sets; None: seeded by place.

    Returns:
        float64 (B, N) in [−1, 1]; 0 where the map's sums or the logit do not vary.

    Raises:
        UserError: images, maps, logits or targets that do not fit or are not finite, shares that
            leave no choice of pixels.

    Source: Ancona, Ceolini, Öztireli, Gross, "Towards better understanding of gradient-based
    attribution methods for deep neural networks", 2018, section 4.
    """
    images, maps = given_batch(images, maps)
    streams = restarted(generator, images)
    with lent(model, images, targets) as (forward, logits, classes):
        intact = target_logits(logits, classes)
        return correlations(
            forward, images, maps[None], intact, classes, streams, shares, samples, baseline
        )[0]


def pixel_counts(shares: Sequence[float], pixels: int) -> list[int]:
    """round(share · pixels), at least 1.

    Raises:
        UserError: a share out of (0, 1), or one that is every pixel.
    """
    counts = [max(1, round(share * pixels)) for share in shares]
    usable = all(
        0 < share < 1 and count < pixels for share, count in zip(shares, counts, strict=True)
    )
    if not counts or not usable:
        raise UserError(
            f"Expected `shares` to be between 0 and 1 and leave some of {pixels} pixels, "
            f"but got {list(shares)}."
        )
    return counts


def pixel_ranks(generator: SampleGenerator, samples: int, pixels: int) -> Tensor:
    """Random orders of the pixels of one image, int64 (samples, pixels): the rank of each."""
    order = generator.uniform(samples, pixels)[0].argsort(-1)
    return torch.empty_like(order).scatter_(1, order, torch.arange(pixels).expand_as(order))


def correlations(
    forward: Forward,
    images: Tensor,
    maps: Tensor,
    intact: Tensor,
    targets: Tensor,
    generator: SampleGenerator,
    shares: Sequence[float],
    samples: int,
    baseline: float,
) -> Tensor:
    """Sensitivity-n of maps (V, B, H, W), float64 (V, B, N).

    An image's random orders serve every n: the first n pixels of each are its sets.

    Raises:
        NonFiniteAlteredError: the model's logits of some of these images are not finite.
    """
    pixels = images.shape[2] * images.shape[3]
    counts = pixel_counts(shares, pixels)
    found = []
    for row, stream in enumerate(separate(generator)):
        one = slice(row, row + 1)
        ranks = pixel_ranks(stream, samples, pixels).to(images.device)
        limits = torch.tensor(counts, device=images.device)
        replaced = partial(_replaced, images[row], ranks, limits, baseline)
        after = altered_scores(forward, images[one], targets[one], samples * len(counts), replaced)
        drops = (intact[one, None] - after).view(len(counts), samples)
        values = maps[:, row].flatten(1).double().mT
        sums = torch.stack([(ranks < count).double() @ values for count in counts])
        found.append(pearson(sums.permute(2, 0, 1), drops))
    stacked = torch.stack(found, 1)
    # What is not finite among the drops makes the correlation NaN.
    require_finite_altered(
        stacked.transpose(0, 1), intact, f"images with pixels replaced (baseline {baseline:g})"
    )
    return stacked


def _replaced(
    image: Tensor, ranks: Tensor, limits: Tensor, baseline: float, places: Tensor, numbers: Tensor
) -> Tensor:
    samples = len(ranks)
    limit = limits[torch.div(numbers, samples, rounding_mode="floor")]
    gone = (ranks[numbers % samples] < limit[:, None]).view(-1, 1, *image.shape[1:])
    return torch.where(gone, baseline, image)
