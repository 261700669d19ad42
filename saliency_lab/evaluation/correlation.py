"""Correlations over the last axis that are 0, not NaN, where a side says nothing."""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor

# Spread below this share of the largest magnitude is rounding, not information.
_ROUNDING = 1e-12


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation over the last axis, float64 (...), 0 where a side is constant.

    NaN where a number of either side is not finite: that is no side that says nothing.

    Args:
        a, b: (..., n), broadcast against each other.

    Source: Pearson, "Notes on regression and inheritance in the case of two parents", 1895.
    """
    finite = a.isfinite().all(-1) & b.isfinite().all(-1)
    a, b = _centred(a), _centred(b)
    spread = a.norm(dim=-1) * b.norm(dim=-1)
    together = (a * b).sum(-1)
    found = torch.where(spread > 0, together / spread.clamp_min(1e-300), 0.0).clamp(-1, 1)
    return torch.where(finite, found, torch.nan)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of ranks, ties sharing their mean rank; see `pearson`."""
    return pearson(_ranks(a), _ranks(b))


def _centred(values: Tensor) -> Tensor:
    values = values.double()
    centred = values - values.mean(-1, keepdim=True)
    largest = values.abs().amax(-1, keepdim=True)
    return torch.where(centred.abs().amax(-1, keepdim=True) > _ROUNDING * largest, centred, 0.0)


def _ranks(values: Tensor) -> Tensor:
    return torch.from_numpy(rankdata(values.cpu().numpy(), axis=-1)).to(values.device)
