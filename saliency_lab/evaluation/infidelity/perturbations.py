"""How well a map predicts what small changes of the image do to the score."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted, separate
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.perturbation import (
    Forward,
    altered_scores,
    lent,
    require_finite_altered,
    target_logits,
)
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import given_batch

Perturbation = Literal["noise", "square"]
PERTURBATIONS = ("noise", "square")


class Infidelity(NamedTuple):
    """Each is float64 (B,)."""

    infidelity: Tensor
    """The share of the score's mean squared change that the map leaves unexplained, in [0, 1]."""

    residual: Tensor
    """The same in squared logits, as Captum gives it with `normalize=True`."""


class Moments(NamedTuple):
    """Sums over an image's perturbations, all that infidelity needs; see `moments`."""

    predicted: Tensor
    """Of (Iᵀφ)², float64 (V, B) for V maps."""

    crossed: Tensor
    """Of Iᵀφ · Δ, float64 (V, B)."""

    changed: Tensor
    """Of Δ², float64 (B,)."""


def infidelity(
    model: nn.Module | PreparedModel,
    images: Tensor,
    maps: Tensor,
    *,
    perturbation: Perturbation = "noise",
    size: float = 0.2,
    samples: int = 100,
    targets: Tensor | int | None = None,
    generator: SampleGenerator | None = None,
) -> Infidelity:
    """E[(β Iᵀφ − Δ)²] with Δ = S(x) − S(x − I) and the β that makes it smallest.

    A map has one number per pixel, so φ is the same for all channels. As β is fitted, the scale
    of a map does not count, but its sign does in so far as pixels differ in it. `infidelity` is
    divided by E[Δ²]: 0 where the map explains every change, 1 where it explains none.

    Args:
        model: from images (B, C, H, W) to logits (B, K), or a prepared one; left unchanged.
        images: floating, (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array.
        maps: (B, H, W), finite.
        perturbation, size, samples: see `drawn_perturbations`.
        targets: the class whose logit is S, (B,), or one for all; None: the predicted one.
        generator: random streams of the perturbations; None: seeded by place.

    Raises:
        UserError: images, maps, logits or targets that do not fit or are not finite, an unknown
            perturbation.

    Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (in)fidelity and sensitivity of
    explanations", 2019, definition 2.1 and, for β, section 4.1.
    """
    images, maps = given_batch(images, maps)
    streams = restarted(generator, images)
    with lent(model, images, targets) as (forward, logits, classes):
        intact = target_logits(logits, classes)
        found = moments(
            forward, images, maps[None], intact, classes, streams, perturbation, size, samples
        )
    return infidelities(found, samples)[0]


def drawn_perturbations(
    image: Tensor, generator: SampleGenerator, perturbation: Perturbation, size: float, count: int
) -> Tensor:
    """What is subtracted from one image (C, H, W), shape (count, C, H, W).

    `noise` is normal with standard deviation `size`, by itself for each pixel and channel.
    `square` is the image inside a square, 0 elsewhere, so that the square becomes black; its
    side is `size` of the image's shorter one, its place random.

    Args:
        generator: one stream, the image's; each call draws on.

    Raises:
        UserError: an unknown perturbation.
    """
    if perturbation == "noise":
        return size * generator.normal(count, *image.shape)[0].to(image)
    if perturbation != "square":
        raise unknown_choice("perturbation", perturbation, PERTURBATIONS)
    height, width = image.shape[1:]
    side = max(1, round(size * min(height, width)))
    if side >= min(height, width):
        raise UserError(f"Expected `size` to leave the square a choice, but got {size}.")
    drawn = generator.uniform(count, 2)[0].to(image.device)
    rows = (drawn[:, :1] * (height - side + 1)).long()
    columns = (drawn[:, 1:] * (width - side + 1)).long()
    down, right = (torch.arange(n, device=image.device) for n in (height, width))
    inside = ((down >= rows) & (down < rows + side))[:, :, None]
    inside = inside & ((right >= columns) & (right < columns + side))[:, None]
    return image * inside[:, None]


def moments(
    forward: Forward,
    images: Tensor,
    maps: Tensor,
    intact: Tensor,
    targets: Tensor,
    generator: SampleGenerator,
    perturbation: Perturbation,
    size: float,
    samples: int,
) -> Moments:
    """What perturbations of each image do to the score, and what maps (V, B, H, W) say of it.

    One image at a time: its perturbations, but no more, are held together.

    Raises:
        NonFiniteAlteredError: the model's logits of some perturbed images are not finite.
    """
    predicted, crossed, changed = [], [], []
    for row, stream in enumerate(separate(generator)):
        image, one = images[row], slice(row, row + 1)
        taken = drawn_perturbations(image, stream, perturbation, size, samples)
        after = altered_scores(
            forward, images[one], targets[one], samples, partial(_subtracted, image, taken)
        )
        change = (intact[one, None] - after)[0]
        sums = maps[:, row].flatten(1).double() @ taken.sum(1).flatten(1).double().mT
        predicted.append(sums.square().sum(1))
        crossed.append(sums @ change)
        changed.append(change.square().sum())
    changes = torch.stack(changed)
    require_finite_altered(changes, intact, f"perturbed images (perturbation {perturbation})")
    return Moments(torch.stack(predicted, 1), torch.stack(crossed, 1), changes)


def infidelities(found: Moments, samples: int) -> list[Infidelity]:
    """One Infidelity per map of the moments; an image that no perturbation changes has 1 and 0."""
    explained = torch.where(
        found.predicted > 0, found.crossed**2 / found.predicted.clamp_min(1e-300), 0.0
    )
    left = (found.changed - explained).clamp_min(0)
    share = torch.where(found.changed > 0, left / found.changed.clamp_min(1e-300), 1.0)
    return [Infidelity(*pair) for pair in zip(share, left / samples, strict=True)]


def _subtracted(image: Tensor, taken: Tensor, places: Tensor, numbers: Tensor) -> Tensor:
    return image - taken[numbers]
