"""How alike two saliency maps of one image are: ranks, values, structure, edges, top pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saliency_lab.errors import UserError, unknown_choice

Similarity = Literal["spearman", "pearson", "ssim", "hog", "top_k"]

SIMILARITIES: tuple[Similarity, ...] = ("spearman", "pearson", "ssim", "hog", "top_k")

RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("spearman", "pearson", "ssim", "hog"), (-1.0, 1.0)),
    "top_k": (0.0, 1.0),
}

_SSIM_WINDOW = 7
_SSIM_CONSTANTS = 0.01**2, 0.03**2
_HOG_CELL, _HOG_BLOCK, _HOG_ANGLES = 8, 3, 9
_HOG_CLIP, _HOG_FLOOR = 0.2, 1e-5


def similarities(
    first: Tensor, second: Tensor, names: Sequence[str] = SIMILARITIES, *, share: float = 0.1
) -> dict[str, Tensor]:
    """Several similarities of the same pairs of maps.

    Two maps that are both constant are alike (1) by every similarity, since neither singles out
    a pixel; a constant map and one that is not have nothing in common (0).

    Args:
        first, second: maps (B, H, W) of the same images.
        names: `spearman`, `pearson`, `ssim`, `hog`, `top_k`.
        share: of the pixels that `top_k` compares.

    Returns:
        Per name float64 (B,); 1 for equal maps, NaN where either map holds NaN or infinity.
        `top_k` is in [0, 1], the others in [−1, 1].

    Raises:
        UserError: an unknown name, shapes that differ, maps too small for a name (`ssim`: 7×7).
    """
    if first.shape != second.shape or first.dim() != 3:
        raise UserError(
            "Expected two batches of maps of one shape (B, H, W), "
            f"but got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    known: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "spearman": spearman,
        "pearson": pearson,
        "ssim": ssim,
        "hog": hog_correlation,
        "top_k": partial(top_overlap, share=share),
    }
    found = {}
    finite = (first.isfinite() & second.isfinite()).flatten(1).all(1)
    a, b = (torch.where(finite[:, None, None], maps.double(), 0.0) for maps in (first, second))
    flat = _constant(a), _constant(b)
    for name in names:
        if name not in known:
            raise unknown_choice("similarity", name, SIMILARITIES)
        value = torch.where(flat[0] ^ flat[1], 0.0, known[name](a, b))
        value = torch.where(flat[0] & flat[1], 1.0, value)
        found[name] = torch.where(finite, value, torch.nan)
    return found


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation over each map's pixels.

    Args:
        first, second: (B, ...), compared entry by entry.

    Returns:
        (B,) in [−1, 1]; 0 where either is constant.
    """
    a, b = (values.flatten(1) for values in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    # Each scaled by itself: the squares of gradients of 1e-200 would vanish.
    a, b = (
        values / values.abs().amax(1, keepdim=True).clamp_min(_tiny(values)) for values in (a, b)
    )
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / scale.clamp_min(_tiny(scale))).clamp(-1, 1)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation over each map's pixels; tied pixels share their mean rank.

    Args:
        first, second: (B, ...), compared entry by entry.

    Returns:
        (B,) in [−1, 1]; 0 where either is constant.

    Source: Spearman 1904; used for this purpose by Adebayo et al., "Sanity checks for saliency
    maps", 2018, section 3.
    """
    return pearson(mean_ranks(first.flatten(1)), mean_ranks(second.flatten(1)))


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 0 along the last axis (B, N), float64; equal values share the mean of theirs."""
    ordered, order = values.sort(dim=1, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    start = torch.where(new, places, 0).cummax(1).values
    # A run of ties ends where the next one starts.
    ends = torch.ones_like(new)
    ends[:, :-1] = new[:, 1:]
    last = torch.where(ends, places, values.shape[1]).flip(1).cummin(1).values.flip(1)
    shared = (start + last).double() / 2
    return torch.empty_like(shared).scatter_(1, order, shared)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity of the maps, each scaled to [0, 1] by its own range.

    Windows of 7×7 pixels of equal weight that lie inside the map, sample covariances, K₁ = 0.01,
    K₂ = 0.03 and a data range of 1, as scikit-image has them by default.

    Args:
        first, second: (B, H, W), H and W at least 7.

    Returns:
        (B,) in [−1, 1].

    Raises:
        UserError: maps smaller than a window.

    Source: Wang et al., "Image quality assessment: from error visibility to structural
    similarity", 2004, equation 13.
    """
    if min(first.shape[1:]) < _SSIM_WINDOW:
        raise UserError(
            f"Expected maps of at least {_SSIM_WINDOW}×{_SSIM_WINDOW} pixels for ssim, "
            f"but got {tuple(first.shape[1:])}."
        )
    a, b = (scaled(values)[:, None] for values in (first, second))
    products = F.avg_pool2d(torch.cat([a, b, a * a, b * b, a * b], 1), _SSIM_WINDOW, stride=1)
    mean_a, mean_b, square_a, square_b, product = products.unbind(1)
    pixels = _SSIM_WINDOW**2
    unbiased = pixels / (pixels - 1)
    variance = unbiased * (square_a - mean_a.square() + square_b - mean_b.square())
    covariance = unbiased * (product - mean_a * mean_b)
    c1, c2 = _SSIM_CONSTANTS
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    spread = (mean_a.square() + mean_b.square() + c1) * (variance + c2)
    return (likeness / spread).mean((1, 2))


def hog_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of the maps' histograms of oriented gradients.

    Args:
        first, second: (B, H, W), scaled here to [0, 1], each by its own range.

    Returns:
        (B,) in [−1, 1].

    Source: Adebayo et al. 2018, section 3; the histograms as in `hog_features`.
    """
    return pearson(hog_features(scaled(first)), hog_features(scaled(second)))


def hog_features(maps: Tensor) -> Tensor:
    """Histograms of oriented gradients, block-normalised (L2-Hys).

    Nine unsigned orientations, cells of 8×8 pixels (smaller ones if the map has no three of them
    along a side), blocks of 3×3 cells one cell apart: what scikit-image computes by default.

    Args:
        maps: (B, H, W), H and W at least 3.

    Returns:
        (B, blocks, 9 · 9), in [0, 1].

    Source: Dalal and Triggs, "Histograms of oriented gradients for human detection", 2005.
    """
    height, width = maps.shape[1:]
    if min(height, width) < _HOG_BLOCK:
        raise UserError(f"Expected maps of at least 3×3 pixels for hog, but got {height}×{width}.")
    cell = min(_HOG_CELL, height // _HOG_BLOCK, width // _HOG_BLOCK)
    votes = _orientation_votes(maps)
    cells = F.avg_pool2d(votes, cell)
    blocks = F.unfold(cells, _HOG_BLOCK).transpose(1, 2)
    return _unit(_unit(blocks).clamp_max(_HOG_CLIP))


def top_overlap(first: Tensor, second: Tensor, share: float = 0.1) -> Tensor:
    """The share of each map's most important pixels that are among the other's, too.

    Args:
        first, second: (B, ...).
        share: of the pixels that count as most important; at least one does. Ties go to the
            lower index.

    Returns:
        (B,) in [0, 1]; two unrelated maps have about `share` on average.

    Source: Ghorbani, Abid, Zou, "Interpretation of neural networks is fragile", 2019, section 2.
    """
    a, b = (_top(values.flatten(1), share) for values in (first, second))
    return (a & b).sum(1) / a.sum(1)


def scaled(maps: Tensor) -> Tensor:
    """Maps (B, H, W) scaled to [0, 1], each by its own range; a constant map becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(_tiny(maps))


def _top(values: Tensor, share: float) -> Tensor:
    count = max(1, math.floor(share * values.shape[1] + 0.5))
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, order, True)


def _orientation_votes(maps: Tensor) -> Tensor:
    """The gradient's magnitude of each pixel in the channel of its orientation, (B, 9, H, W)."""
    down, right = torch.zeros_like(maps), torch.zeros_like(maps)
    down[:, 1:-1] = maps[:, 2:] - maps[:, :-2]
    right[:, :, 1:-1] = maps[:, :, 2:] - maps[:, :, :-2]
    angle = torch.rad2deg(torch.atan2(down, right)).remainder(180)
    # An angle just below 0 is rounded to 180 itself, which belongs to no bin.
    bins = (angle * (_HOG_ANGLES / 180)).long()
    votes = maps.new_zeros(len(maps), _HOG_ANGLES + 1, *maps.shape[1:])
    votes.scatter_(1, bins[:, None], torch.hypot(down, right)[:, None])
    return votes[:, :_HOG_ANGLES]


def _unit(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(2, keepdim=True) + _HOG_FLOOR**2).sqrt()


def _constant(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat.amax(1) == flat.amin(1)


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
