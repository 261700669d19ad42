"""MuFidelity's arithmetic against xplique itself, over the subsets that xplique draws."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from saliency_lab.evaluation.correlation import spearman
from saliency_lab.evaluation.mu_fidelity.subsets import grid_cells, subset_drops, subset_sums

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
metrics = pytest.importorskip("xplique.metrics", reason="xplique is not installed")


def test_xplique_correlates_the_same_sums_and_drops() -> None:
    torch.manual_seed(1)
    height, width, samples = 13, 20, 40
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 11 * 18, 4))
    images, maps = torch.rand(2, 3, height, width), torch.randn(2, height, width)
    with torch.no_grad():
        logits = model(images)
    classes = logits.argmax(1)
    kept: list[Any] = []

    class Watched(metrics.MuFidelity):
        def _perturb_samples(self, inputs: Any, nb_perturbations: int) -> Any:
            altered, masks = super()._perturb_samples(inputs, nb_perturbations)
            kept.append(np.asarray(masks))
            return altered, masks

    def scores(_: Any, inputs: Any, targets: Any) -> Any:
        with torch.no_grad():
            found = model(torch.from_numpy(np.array(inputs)).permute(0, 3, 1, 2))
        return (found.numpy() * np.asarray(targets)).sum(-1)

    theirs = Watched(
        model,
        images.permute(0, 2, 3, 1).numpy(),
        np.eye(4, dtype=np.float32)[classes],
        batch_size=samples,
        baseline_mode=0.3,
        nb_samples=samples,
        operator=scores,
    )
    mean = theirs.evaluate(maps.numpy())
    # One image a batch, so one draw of masks each: (1, samples, H, W, 1), 0 where replaced.
    subsets = torch.zeros(2, samples, 81, dtype=torch.bool)
    cells = grid_cells(height, width, 9).flatten().numpy()
    for row, masks in enumerate(kept):
        gone = masks[0, :, :, :, 0].reshape(samples, -1) == 0
        for cell in range(81):
            inside = gone[:, cells == cell]
            assert (inside.all(1) | ~inside.any(1)).all()
            subsets[row, :, cell] = torch.from_numpy(inside[:, 0])
    intact = logits.gather(1, classes[:, None])[:, 0]
    drops = subset_drops(
        lambda inputs: model(inputs).detach(), images, subsets, 0.3, intact, classes
    )
    found = spearman(subset_sums(maps, subsets), drops)
    assert found.mean().item() == pytest.approx(mean, abs=1e-5)
    # It draws each cell by itself: the number of replaced cells varies.
    assert len(set(subsets.sum(2).flatten().tolist())) > 5
