"""Scores of a model on partly deleted images: every distinct masked image is run once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.masking import MaskingJob, MaskingPlan, Mode
from saliency_lab.evaluation.deletion.removal import Protocol, checked_fractions, deletion_levels
from saliency_lab.evaluation.perturbation import NonFiniteAlteredError
from saliency_lab.frozen import checked_logits, frozen, placed_images, require_classes
from saliency_lab.imputation.fills import Streams, replacement
from saliency_lab.imputation.linear import Imputation
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import (
    UNIT,
    PixelRange,
    given_images,
    given_maps,
    given_model,
    require_finite_logits,
    require_positive,
    taking,
)

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CurveScores:
    """What the model says along one curve; every tensor is (B, F) on the images' device.

    F are all fractions, or those that were asked for.
    """

    prediction: Tensor
    """Class with the highest logit, int64."""

    probability: Tensor
    """Softmax of the scored class, float32."""

    logit: Tensor
    """Logit of the scored class, float32."""

    deleted: Tensor
    """Share of the pixels that the fill replaced, float32 in [0, 1]."""


def masked_scores(
    forward: Forward,
    images: Tensor,
    jobs: Sequence[MaskingJob],
    n_fractions: int,
    targets: Tensor | None = None,
    *,
    batch_size: int = 256,
    intact: Tensor | None = None,
    steps: Tensor | None = None,
) -> list[CurveScores]:
    """Scores along several curves of the same images, from as few forwards as there are images.

    The distinct masked images of all jobs, images and fractions are one flat list that is cut
    into full batches. A fraction that replaces no further pixel repeats the previous answer, and
    an image with nothing replaced has the intact image's answer in every job.

    Args:
        forward: from images (n, C, H, W) to logits (n, K), called without gradients, n at most
            `batch_size`; it gets the images' device and dtype. The next batch is written over
            the images of the last.
        images: intact, (B, C, H, W).
        jobs: the curves.
        n_fractions: F; levels run from 0 to F, F meaning never.
        targets: the class whose probability and logit are scored, (B,); None: the prediction on
            the intact image.
        batch_size: masked images per forward.
        intact: logits (B, K) of the intact images if they are known already.
        steps: the fractions to ask for, int64 (B, D) of [0, F), ascending in each row; None: all.

    Returns:
        One CurveScores per job, in order; with `steps` its tensors are (B, D).

    Raises:
        UserError: levels that do not fit the images, or a model of a single logit.
        NonFiniteAlteredError: logits of masked images are not finite though the intact image's are.
    """
    for job in jobs:
        if job.levels.shape != (len(images), *images.shape[2:]):
            raise UserError(
                f"Expected `map` to be {(len(images), *images.shape[2:])} for these images, "
                f"but got {tuple(job.levels.shape)}."
            )
    with torch.no_grad():
        if intact is None:
            intact = torch.cat(
                # The model may work in place, and these are not copies of the images.
                [checked_logits(forward(p.clone()), len(p)) for p in images.split(batch_size)]
            )
        require_classes(intact)
        intact = intact.to(images.device)
        targets = intact.argmax(1) if targets is None else targets.to(images.device)
        plan = MaskingPlan(images, jobs, n_fractions, steps)
        found = {-1: _scores(intact, targets)}
        for start, rows, masked in plan.batches(batch_size):
            logits = checked_logits(forward(masked), len(masked))
            found[start] = _scores(logits, targets[rows])
        ordered = [found[start] for start in sorted(found)]
        prediction, probability, logit, finite = (
            torch.cat(column)[plan.answers] for column in zip(*ordered, strict=True)
        )
        _require_finite(jobs, finite, intact)
    return [
        CurveScores(prediction[j], probability[j], logit[j], plan.deleted[j])
        for j in range(len(jobs))
    ]


def deletion_curve(
    model: nn.Module | PreparedModel,
    images: Tensor,
    maps: Tensor,
    fill: str = "black",
    protocol: Protocol = "threshold",
    fractions: Sequence[float] | None = None,
    *,
    mode: Mode = "deletion",
    batch_size: int = 256,
    generator: Streams | None = None,
    pixel_range: PixelRange | None = UNIT,
) -> Tensor:
    """Whether the model still predicts the intact image's class as pixels are replaced.

    The mean over images is the allegiance at each fraction.

    Args:
        model: from images (B, C, H, W) to logits (B, K); left unchanged. What
            `sl.prepared` gives is several times as fast.
        images: floating, (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array. For a model of
            normalised images see `saliency_lab.inputs.normalized`.
        maps: (B, H, W), finite, higher is more important.
        fill: see `replacement`.
        protocol: see `deletion_levels`.
        fractions: F ascending numbers in [0, 1]; None: the protocol's own.
        mode: in "insertion" the most important pixels are shown and the others replaced.
        batch_size: masked images per forward.
        generator: random streams for fill="noise" and "road".
        pixel_range: what the pixels must be in, where another range than [0, 1] is meant: black is
            its low end then, white its high end. None: no check, and fills as for [0, 1].

    Returns:
        (B, F) bool, on the device of the images.

    Raises:
        UserError: maps that do not fit the images or are not finite, pixels out of range, an
            unknown fill, protocol or mode, or a model of a single logit.
    """
    model = model if isinstance(model, PreparedModel) else given_model(model)
    require_positive(batch_size, "batch_size")
    images = given_images(images, pixel_range, adjustable=True)
    maps = given_maps(maps)
    fractions = checked_fractions(fractions, protocol)
    levels = deletion_levels(maps.to(images.device), fractions, protocol)
    job = MaskingJob(levels, _filled(images, fill, generator, pixel_range or UNIT), mode, fill)
    with torch.no_grad(), _asked(model, images, batch_size) as (forward, size):
        with taking(model.original if isinstance(model, PreparedModel) else model, images):
            intact = torch.cat([forward(part.clone()) for part in images.split(size)])
        require_finite_logits(intact)
        (scores,) = masked_scores(
            forward, images, [job], len(fractions), batch_size=size, intact=intact
        )
        return scores.prediction == intact.argmax(1)[:, None]


@contextmanager
def _asked(
    model: nn.Module | PreparedModel, images: Tensor, batch_size: int
) -> Iterator[tuple[Forward, int]]:
    """What gives logits on the images' device, and how many images it is given at once."""
    if isinstance(model, PreparedModel):
        yield model.scores, model.scores_batch
        return
    placed = placed_images(model, images)
    with frozen(model):
        yield (
            lambda part: checked_logits(model(part.to(placed)), len(part)).to(images.device),
            batch_size,
        )


def _filled(
    images: Tensor, fill: str, generator: Streams | None, pixel_range: PixelRange
) -> Tensor | Imputation:
    """The fill for pixels in a range: what it is in [0, 1], stretched."""
    if pixel_range == UNIT:
        return replacement(images, fill, generator)
    low, high = pixel_range
    unit = replacement((images - low) / (high - low), fill, generator)
    if isinstance(unit, Tensor):
        return unit * (high - low) + low

    def stretched(places: Tensor, removed: Tensor) -> Tensor:
        imputed = unit(places, removed) * (high - low) + low
        return torch.where(removed[:, None], imputed, images[places])

    return stretched


def _require_finite(jobs: Sequence[MaskingJob], finite: Tensor, intact: Tensor) -> None:
    """Nothing, or a refusal of masked images (J, B, F) without finite logits: NaN is class 0."""
    lost = intact.isfinite().all(1)[:, None] & ~finite
    # One look for all curves, because a GPU is waited for each time.
    if bool(lost.any()):
        names = [job.name for job, one in zip(jobs, lost, strict=True) if bool(one.any())]
        rows = lost.any(2).any(0).nonzero().flatten().tolist()
        raise NonFiniteAlteredError(rows, f"masked images ({', '.join(dict.fromkeys(names))})")


def _scores(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prediction, and probability and logit of the classes, and whether all logits are finite."""
    # Of the model's own numbers, as the intact images' prediction is: float32 may tie them.
    finite, prediction, logits = logits.isfinite().all(1), logits.argmax(1), logits.float()
    scored = logits.gather(1, classes[:, None]).squeeze(1)
    return prediction, (scored - logits.logsumexp(1)).exp(), scored, finite
