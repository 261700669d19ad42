"""How complex a map is: the entropy of its histogram, and how far it rises."""

from __future__ import annotations

import torch
from torch import Tensor

from saliency_lab.evaluation.randomisation.similarity import scaled


def histogram_entropy(maps: Tensor, bins: int = 100) -> Tensor:
    """Entropy of the histogram of each map's values, over bins of equal width across its range.

    Args:
        maps: (B, H, W).
        bins: how many; the last one includes the maximum.

    Returns:
        Float64 (B,), in nats, from 0 (a constant map) to ln(bins); NaN for maps with NaN or
        infinity.

    Source: Hedström et al., "Sanity checks revisited: an exploration to repair the model parameter
    randomisation test", 2024, section 4.2.
    """
    finite = maps.flatten(1).isfinite().all(1)
    clean = torch.where(finite[:, None, None], maps.double(), 0.0)
    places = (scaled(clean).flatten(1) * bins).long().clamp_max(bins - 1)
    counts = torch.zeros(len(maps), bins, dtype=torch.float64, device=maps.device)
    counts.scatter_add_(1, places, torch.ones_like(places, dtype=torch.float64))
    entropy = torch.special.entr(counts / places.shape[1]).sum(1)
    return torch.where(finite, entropy, torch.nan)


def relative_rise(after: Tensor, before: Tensor) -> Tensor:
    """(after − before) / before of two entropies (B,); 0 where both are 0, after where before is.

    A map that is noise already starts near the largest entropy that a histogram can have, so that
    its entropy cannot rise much: a small rise says nothing against such a map.
    """
    return (after - before) / torch.where(before == 0, 1.0, before)
