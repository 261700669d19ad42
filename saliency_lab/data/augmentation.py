"""Random flips and crops on the device, the same for a sample whatever batch it is in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augmented(images: Tensor, index: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Horizontal flip with chance 1/2 and a random crop after padding with black by H // 8.

    The choices of a sample depend on (seed, epoch, its index) alone, so batches, workers, ranks
    and a resumed run change nothing.

    Args:
        images: (B, C, H, W), any dtype.
        index: int64 (B,), the samples' positions in the split, on the images' device.
        seed: the run's seed.
        epoch: number of the epoch.

    Returns:
        (B, C, H, W) in the images' dtype.
    """
    batch, _, height, width = images.shape
    pad = height // 8
    noise = _mixed(_mixed(_mixed(torch.full_like(index, seed)) + epoch) + index)
    flip = noise % 2 == 1
    top = (noise >> 8) % (2 * pad + 1)
    left = (noise >> 32) % (2 * pad + 1)

    rows = top[:, None] + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - across, across)
    padded = F.pad(images, (pad, pad, pad, pad))
    which = torch.arange(batch, device=images.device)[:, None, None]
    # The two index groups around the channel axis put it last.
    taken = padded[which, :, rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).contiguous()


def _mixed(state: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (products wrap around), results in [0, 2**63)."""
    state = state + (0x9E3779B97F4A7C15 - 2**64)
    state = (state ^ ((state >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    state = (state ^ ((state >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return (state ^ ((state >> 31) & (2**33 - 1))) & (2**63 - 1)
