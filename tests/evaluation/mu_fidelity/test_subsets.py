"""MuFidelity against its definition, written out slowly, and on a linear model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.evaluation.correlation import spearman
from saliency_lab.evaluation.mu_fidelity.subsets import (
    drawn_subsets,
    grid_cells,
    mu_fidelity,
    subset_drops,
    subset_sums,
)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 13 * 20, 4)
        )
        return found.double()


def test_it_is_xpliques_definition_over_the_same_subsets() -> None:
    """Its steps in NumPy: enlarge the mask to the nearest cell, replace, sum, correlate ranks."""
    model, images = net(), torch.rand(2, 3, 13, 20, dtype=torch.float64)
    maps = torch.randn(2, 13, 20, dtype=torch.float64)
    subsets = drawn_subsets(SampleGenerator(4, ["a", "b"]), 9, 0.2, 50)
    with torch.no_grad():
        logits = model(images)
        classes = logits.argmax(1)
        intact = logits[range(2), classes]
        drops = subset_drops(model, images, subsets, 0.3, intact, classes)
    sums = subset_sums(maps, subsets)
    for row in range(2):
        attributions, losses = [], []
        for subset in subsets[row].numpy():
            small = subset.reshape(9, 9)
            mask = np.array(
                [
                    [small[int((r + 0.5) * 9 / 13), int((c + 0.5) * 9 / 20)] for c in range(20)]
                    for r in range(13)
                ]
            )
            altered = images[row].numpy() * ~mask + 0.3 * mask
            after = model(torch.from_numpy(altered)[None])[0, classes[row]].item()
            losses.append(intact[row].item() - after)
            attributions.append((maps[row].numpy() * mask).sum())
        np.testing.assert_allclose(drops[row].numpy(), losses, atol=1e-10)
        np.testing.assert_allclose(sums[row].numpy(), attributions, atol=1e-10)
        ranks = stats.spearmanr(losses, attributions).statistic
        assert spearman(sums, drops)[row].item() == pytest.approx(ranks, abs=1e-9)
        expected = stats.pearsonr(losses, attributions).statistic
        streams = SampleGenerator(4, ["a", "b"])
        found = mu_fidelity(model, images, maps, samples=50, baseline=0.3, generator=streams)
        assert found[row].item() == pytest.approx(expected, abs=1e-9)


def test_input_times_gradient_of_a_linear_model_is_perfect() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 324, 2)).double()
    images = torch.rand(3, 3, 18, 18, dtype=torch.float64)
    classes = model(images).argmax(1)
    maps = (images * model[1].weight.detach()[classes].view(3, 3, 18, 18)).sum(1)
    torch.testing.assert_close(mu_fidelity(model, images, maps), torch.ones(3).double())
    torch.testing.assert_close(mu_fidelity(model, images, -9 * maps), -torch.ones(3).double())
    assert mu_fidelity(model, images, torch.zeros(3, 18, 18)).tolist() == [0, 0, 0]


def test_subsets_have_one_size_and_belong_to_the_sample() -> None:
    together = drawn_subsets(SampleGenerator(0, ["a", "b"]), 9, 0.2, 30)
    assert together.shape == (2, 30, 81)
    assert together.sum(2).unique().tolist() == [16]
    assert torch.equal(together[1:], drawn_subsets(SampleGenerator(0, ["b"]), 9, 0.2, 30))
    assert not torch.equal(together[0], together[1])
    with pytest.raises(UserError, match="`share`"):
        drawn_subsets(SampleGenerator(0, ["a"]), 2, 0.1, 30)


def test_cells_share_the_image_evenly() -> None:
    cells = grid_cells(18, 27, 9)
    assert cells.unique(return_counts=True)[1].tolist() == [6] * 81
    assert cells[0, :4].tolist() == [0, 0, 0, 1]
    assert cells[:3, 0].tolist() == [0, 0, 9]
