"""Which masked images several curves ask for, each of them once, and the images themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from saliency_lab.errors import unknown_choice
from saliency_lab.imputation.linear import Imputation

MODES = ("deletion", "insertion")
Mode = Literal["deletion", "insertion"]

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

    name: str = "fill"
    """What replaces pixels, for messages."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_choice("mode", self.mode, MODES)


class MaskingPlan:
    """The distinct masked images of several jobs, and where each (job, image, fraction) finds its
    answer: in the intact images' B answers, followed by those of the distinct masked images.

    With `steps`, (B, D), only D of each image's fractions are asked for, and D answers are found.
    """

    def __init__(
        self,
        images: Tensor,
        jobs: Sequence[MaskingJob],
        n_fractions: int,
        steps: Tensor | None = None,
    ) -> None:
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
        if steps is not None:
            steps = steps.to(levels.device).expand(len(jobs), -1, -1)
            distinct &= _needed(distinct, replaced, steps)
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
        if steps is not None:
            self.answers = self.answers.gather(2, steps)
            self.deleted = self.deleted.gather(2, steps)

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


def _needed(distinct: Tensor, replaced: Tensor, steps: Tensor) -> Tensor:
    """Where a masked image begins, (J, B, F), that some of the steps (J, B, D) show."""
    image = torch.where(replaced > 0, distinct.cumsum(2), 0)
    asked = distinct.new_zeros((*image.shape[:2], image.shape[2] + 1))
    asked.scatter_(2, image.gather(2, steps), torch.ones_like(steps, dtype=torch.bool))
    return asked.gather(2, image)


def _bits(images: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H·W·C) as integers: channels-last, as convolutions read it, and flat."""
    return images.permute(0, 2, 3, 1).flatten(1).view(_INTEGERS[images.element_size()])


def _scattered(starts: range) -> Iterator[int]:
    """Every start once, in steps of about the golden ratio of their number."""
    count = len(starts)
    step = next((s for s in range(round(0.618 * count), count) if math.gcd(s, count) == 1), 1)
    return (starts[step * place % count] for place in range(count))
