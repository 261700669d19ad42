"""How far the probability moves as a map's important, or unimportant, pixels are disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted, separate
from saliency_lab.evaluation.deletion.removal import checked_fractions, deletion_levels
from saliency_lab.evaluation.perturbation import (
    Forward,
    altered_probabilities,
    lent,
    require_finite_altered,
    target_probabilities,
)
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import given_batch

FRACTIONS = (0.05, 0.1, 0.25, 0.5)


class PredictionGaps(NamedTuple):
    """Mean absolute changes of the probability, in [0, 1]; each is float64 (B, F)."""

    pgi: Tensor
    """The most important share of the pixels is disturbed."""

    pgu: Tensor
    """All other pixels are disturbed."""


def prediction_gaps(
    model: nn.Module | PreparedModel,
    images: Tensor,
    maps: Tensor,
    *,
    fractions: Sequence[float] = FRACTIONS,
    sigma: float = 0.2,
    samples: int = 20,
    targets: Tensor | int | None = None,
    generator: SampleGenerator | None = None,
) -> PredictionGaps:
    """Prediction gaps on important and unimportant pixels: E |p(x) − p(x + noise there)|.

    Args:
        model: from images (B, C, H, W) to logits (B, K), or a prepared one; left unchanged.
        images: floating, (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array.
        maps: (B, H, W), finite, higher is more important; ties are broken by position.
        fractions: F shares of the pixels that count as important, ascending.
        sigma: standard deviation of the normal noise, by itself for each pixel and channel.
        samples: of the noise; the same for both gaps and for every fraction.
        targets: the class whose softmax is p, (B,), or one for all; None: the predicted one.
        generator: random streams of the noise; None: seeded by place.

    Raises:
        UserError: images, maps, logits or targets that do not fit or are not finite, fractions out
            of order.

    Source: Dai, Upadhyay, Aïvodji, Bach, Lakkaraju, "Fairness via explanation quality", 2022;
    as in Agarwal et al., "OpenXAI", 2022, section 3.
    """
    steps = checked_fractions(fractions, "standard")
    images, maps = given_batch(images, maps)
    levels = deletion_levels(maps, steps, "standard")
    streams = restarted(generator, images)
    with lent(model, images, targets) as (forward, logits, classes):
        intact = target_probabilities(logits, classes)
        return gaps(
            forward, images, levels[None], intact, classes, streams, len(steps), sigma, samples
        )[0]


def gaps(
    forward: Forward,
    images: Tensor,
    levels: Tensor,
    intact: Tensor,
    targets: Tensor,
    generator: SampleGenerator,
    steps: int,
    sigma: float,
    samples: int,
) -> list[PredictionGaps]:
    """The gaps of several maps by their levels (V, B, H, W), see `deletion_levels`.

    Raises:
        NonFiniteAlteredError: the model's logits of some disturbed images are not finite.
    """
    found = []
    for row, stream in enumerate(separate(generator)):
        image, one = images[row], slice(row, row + 1)
        noise = sigma * stream.normal(samples, *image.shape)[0].to(image)
        altered = partial(_disturbed, image, levels[:, row], noise, steps)
        copies = len(levels) * 2 * steps * samples
        after = altered_probabilities(forward, images[one], targets[one], copies, altered)
        moved = (after - intact[one, None]).abs().view(len(levels), 2, steps, samples)
        found.append(moved.mean(3))
    stacked = torch.stack(found, 1)
    require_finite_altered(stacked.transpose(0, 1), intact, f"images with noise (sigma {sigma:g})")
    return [PredictionGaps(view[:, 0], view[:, 1]) for view in stacked]


def _disturbed(
    image: Tensor, levels: Tensor, noise: Tensor, steps: int, places: Tensor, numbers: Tensor
) -> Tensor:
    samples = len(noise)
    sample = numbers % samples
    rest = torch.div(numbers, samples, rounding_mode="floor")
    step, rest = rest % steps, torch.div(rest, steps, rounding_mode="floor")
    unimportant, view = rest % 2 == 1, torch.div(rest, 2, rounding_mode="floor")
    important = levels[view] <= step[:, None, None]
    disturbed = important ^ unimportant[:, None, None]
    return image + noise[sample] * disturbed[:, None]
