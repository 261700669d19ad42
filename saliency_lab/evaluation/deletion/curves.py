"""Scores of a model on partly deleted images: every distinct masked image is run once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.deletion.removal import Protocol, checked_fractions, deletion_levels
from saliency_lab.frozen import checked_logits, frozen, placed_images
from saliency_lab.imputation.fills import Streams, replacement
from saliency_lab.imputation.linear import Imputation
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import (
    UNIT,
    PixelRange,
    given_images,
    given_maps,
    given_model,
    require_taken,
)

MODES = ("deletion", "insertion")
Mode = Literal["deletion", "insertion"]
Forward = Callable[[Tensor], Tensor]

# Integers as wide as a floating number of so many bytes.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class MaskingJob:
    """One curve to measure on a batch: which pixels go when, and what replaces them.

    In deletion, pixels with level <= f are replaced by the fill; in insertion they are the ones
    that are shown, and all others are the fill.
    """

    levels: Tensor
    """(B, H, W) uint8, see `deletion_levels`."""

    fill: Tensor | Imputation
    """(B, C, H, W), or a function of what is replaced, see `replacement`."""

    mode: Mode = "deletion"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_choice("mode", self.mode, MODES)


@dataclass(frozen=True)
class CurveScores:
    """What the model says along one curve; every tensor is (B, F) on the images' device."""

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

    Returns:
        One CurveScores per job, in order.

    Raises:
        UserError: levels that do not fit the images.
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
                [checked_logits(forward(part), len(part)) for part in images.split(batch_size)]
            )
        intact = intact.to(images.device)
        targets = intact.argmax(1) if targets is None else targets.to(images.device)
        plan = _Plan(images, jobs, n_fractions)
        found = {-1: _scores(intact, targets)}
        for start, rows, masked in plan.batches(batch_size):
            logits = checked_logits(forward(masked), len(masked))
            found[start] = _scores(logits, targets[rows])
        ordered = [found[start] for start in sorted(found)]
        prediction, probability, logit = (
            torch.cat(column)[plan.answers] for column in zip(*ordered, strict=True)
        )
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
            unknown fill, protocol or mode.
    """
    model = model if isinstance(model, PreparedModel) else given_model(model)
    images = given_images(images, pixel_range)
    maps = given_maps(maps)
    fractions = checked_fractions(fractions, protocol)
    levels = deletion_levels(maps.to(images.device), fractions, protocol)
    job = MaskingJob(levels, _filled(images, fill, generator, pixel_range or UNIT), mode)
    with torch.no_grad(), _asked(model, images, batch_size) as (forward, size):
        try:
            intact = torch.cat([forward(part) for part in images.split(size)])
        except Exception:
            # Where the model itself refuses an image, that is the mistake to tell.
            require_taken(model.original if isinstance(model, PreparedModel) else model, images)
            raise
        if not bool(intact.isfinite().all()):
            rows = (~intact.isfinite().all(1)).nonzero().flatten().tolist()
            raise UserError(
                f"Expected finite logits, but got NaN or infinity for images {rows[:5]}."
            )
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
    low, high = pixel_range
    unit = replacement(
        images if pixel_range == UNIT else (images - low) / (high - low), fill, generator
    )
    if pixel_range == UNIT:
        return unit
    if not isinstance(unit, Tensor):  # neighbours are mixed in whatever range they are in
        return replacement(images, fill, generator)
    return unit * (high - low) + low


def _scores(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits.float()
    scored = logits.gather(1, classes[:, None]).squeeze(1)
    return logits.argmax(1), (scored - logits.logsumexp(1)).exp(), scored


class _Plan:
    """The distinct masked images of several jobs, and where each (job, image, fraction) finds its
    answer: in the intact images' B answers, followed by those of the distinct masked images.
    """

    def __init__(self, images: Tensor, jobs: Sequence[MaskingJob], n_fractions: int) -> None:
        self.jobs = jobs
        self._shape, self._dtype = (*images.shape[2:], images.shape[1]), images.dtype
        self._pixels = _bits(images)
        levels = torch.stack([job.levels for job in jobs])
        pixels = levels[0, 0].numel()
        newly = _histograms(levels.flatten(2), n_fractions)
        chosen = newly.cumsum(2)
        insertion = torch.tensor([job.mode == "insertion" for job in jobs], device=levels.device)
        replaced = torch.where(insertion[:, None, None], pixels - chosen, chosen)
        self.deleted = replaced.float() / pixels
        distinct = newly > 0
        # Insertion begins with the bare fill, whether or not a pixel is shown already.
        distinct[:, :, 0] |= insertion[:, None]
        distinct &= replaced > 0
        # The only point at which the host waits for the device.
        where = distinct.cpu().nonzero()
        self._bounds = torch.searchsorted(where[:, 0], torch.arange(len(jobs) + 1)).tolist()
        self._places = where[:, 1].tolist()
        rows, fractions = where[:, 1:].to(levels.device, non_blocking=True).unbind(1)
        self._rows, self._fractions = rows, fractions.to(self._pixels.dtype)[:, None]
        batch = levels.shape[1]
        answers = distinct.flatten().cumsum(0).view_as(distinct) + (batch - 1)
        own = torch.arange(batch, device=levels.device)[:, None]
        self.answers = torch.where(replaced > 0, answers, own)

    def batches(self, batch_size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Batch by batch: where it starts, the images' rows (n,), the masked images (n, C, H, W).

        Batches come in a scattered order, so that the first few, on which a screen is calibrated,
        show it all jobs. All are written into the same memory: asked for anew, it would be zeroed
        by the system every time, for a tenth of a small model's forward.
        """
        size = min(batch_size, len(self._rows))
        buffer = self._pixels.new_empty(size, self._pixels.shape[1])
        for start in _scattered(range(0, len(self._rows), batch_size)):
            stop = min(start + batch_size, len(self._rows))
            masked = buffer[: stop - start]
            for job, (first, end) in enumerate(pairwise(self._bounds)):
                low, high = max(first, start), min(end, stop)
                if low < high:
                    self._mask(masked[low - start : high - start], job, slice(low, high))
            rows = self._rows[start:stop]
            yield start, rows, masked.view(self._dtype).view(-1, *self._shape).permute(0, 3, 1, 2)

    def _mask(self, masked: Tensor, job: int, work: slice) -> None:
        """Write the masked images of a stretch of one job's work.

        As bits, fill ⊕ kept · (pixels ⊕ fill): three passes without a branch per number, which
        take a fifth of the time of a masked fill and change no bit of what is kept or filled in.
        """
        levels, fill = self.jobs[job].levels, self.jobs[job].fill
        insertion = self.jobs[job].mode == "insertion"
        if not isinstance(fill, Tensor):
            places, shown = self._rows[work], levels[self._rows[work]]
            reached = shown <= self._fractions[work].to(torch.int64)[:, :, None]
            masked.copy_(_bits(fill(places, ~reached if insertion else reached)))
            return
        # Work goes by image, so what all fractions of an image share is made once.
        rows = slice(self._places[work.start], self._places[work.stop - 1] + 1)
        places = self._rows[work] - rows.start
        spread = levels[rows].flatten(1).to(masked.dtype)
        spread = spread.repeat_interleave(self._shape[2], dim=1)
        # A fill expanded from one number stays one number.
        filled = _bits(fill[rows]) if any(fill.stride()) else _bits(fill[:1, :1, :1, :1]).view(())
        torch.index_select(spread, 0, places, out=masked)
        fractions = self._fractions[work]
        masked.le_(fractions) if insertion else masked.gt_(fractions)
        masked.mul_((self._pixels[rows] ^ filled).index_select(0, places))
        masked.bitwise_xor_(filled if filled.dim() == 0 else filled.index_select(0, places))


def _histograms(levels: Tensor, n_fractions: int) -> Tensor:
    """How many pixels have each level below F: (J, B, N) uint8 to (J, B, F) int64."""
    ones = torch.ones((), dtype=torch.int64, device=levels.device).expand_as(levels)
    counts = levels.new_zeros((*levels.shape[:2], n_fractions + 1), dtype=torch.int64)
    return counts.scatter_add_(2, levels.long(), ones)[:, :, :n_fractions]


def _bits(images: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H·W·C) as integers: channels-last, as convolutions read it, and flat."""
    return images.permute(0, 2, 3, 1).flatten(1).view(_INTEGERS[images.element_size()])


def _scattered(starts: range) -> Iterator[int]:
    """Every start once, in steps of about the golden ratio of their number."""
    count = len(starts)
    step = next((s for s in range(round(0.618 * count), count) if math.gcd(s, count) == 1), 1)
    return (starts[step * place % count] for place in range(count))
