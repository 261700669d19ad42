"""A map's twin is the map under SciPy's Gaussian."""

from __future__ import annotations

import torch
from scipy.ndimage import gaussian_filter

from saliency_lab.evaluation.panel.smoothing import twins


def test_twins_are_scipys_gaussians_and_are_not_cut() -> None:
    maps = 5 * torch.randn(2, 20, 30, dtype=torch.float64)
    found = twins({"original": maps}, 1.5)["original"]
    for row in range(2):
        expected = gaussian_filter(maps[row].numpy(), 1.5, mode="nearest", radius=5)
        torch.testing.assert_close(found[row], torch.from_numpy(expected))
