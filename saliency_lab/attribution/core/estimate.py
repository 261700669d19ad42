"""How exactly a mean over random draws is known, from the spread of independent rounds of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """What drawing left uncertain in the attributions of a batch's images."""

    error: Tensor
    """Standard error as a share of the attribution's size, float64 (B,), in [0, 1]: `Rounds`."""

    rounds: Tensor
    """Rounds drawn for each image, int64 (B,)."""

    @classmethod
    def joined(cls, parts: Sequence[Estimate | None]) -> Estimate | None:
        """Consecutive parts of a batch as the whole."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        return cls(*(torch.cat(values) for values in zip(*known, strict=True)))


class EstimatedMaps(NamedTuple):
    """What a map source may return instead of its maps alone."""

    maps: Tensor
    """Shape (B, H, W)."""

    estimate: Estimate


class Rounds:
    """Running means of equal, independent rounds, and the standard errors of these means.

    The error of one image's mean over R rounds m_1 … m_R is

        sqrt(min(1, SE² / ‖mean‖²)),   SE² = Σ ‖m_r − mean‖² / (R (R − 1)),

    summed over all elements: 0 where rounds are equal, about 1 where noise is all there is.

    Args:
        like: attributions (B, …) of the right shape, device and dtype.
        centred: measure what differs among an image's elements and nothing else, for maps that
            are read by order. With an error e, such a map's correlation with the exact one is
            about sqrt(1 − e²).
    """

    def __init__(self, like: Tensor, *, centred: bool) -> None:
        self.mean = torch.zeros_like(like)
        self.count = torch.zeros(len(like), dtype=torch.int64)
        self._squares = torch.zeros(len(like), dtype=torch.float64)
        self._centred = centred

    def add(self, at: Tensor, values: Tensor) -> None:
        """One more round of the images at these places, (n,); values (n, …)."""
        self.count[at] += 1
        place = at.to(values.device)
        counts = self.count[at].to(values).view(-1, *[1] * (values.dim() - 1))
        before = values - self.mean[place]
        self.mean[place] += before / counts
        # Welford's update: the difference of two large sums would lose the spread in float32.
        self._squares[at] += self._product(before, values - self.mean[place])

    def error(self) -> Tensor:
        """The errors so far, float64 (B,); 1 after fewer than two rounds, NaN where a round was."""
        count = self.count.double()
        own = self._squares / (count * (count - 1)).clamp_min(1)
        size = self._product(self.mean, self.mean).maximum(own)
        ratio = torch.where(own == 0, 0.0, (own / size).sqrt())
        return torch.where(self.count > 1, ratio, 1.0)

    def _product(self, one: Tensor, other: Tensor) -> Tensor:
        one, other = one.flatten(1).double(), other.flatten(1).double()
        if self._centred:
            one = one - one.mean(1, keepdim=True)
        return (one * other).sum(1).cpu()
