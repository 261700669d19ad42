"""Sensitivity-n against loops over sets of pixels, Quantus' correlation, and a linear model."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.evaluation.correlation import pearson
from saliency_lab.evaluation.sensitivity_n.pixels import pixel_counts, pixel_ranks, sensitivity_n


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 80, 4)
        )
        return found.double()


def test_it_is_the_correlation_over_random_sets_of_pixels() -> None:
    model = net()
    images = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    maps = torch.randn(2, 8, 10, dtype=torch.float64)
    found = sensitivity_n(
        model,
        images,
        maps,
        shares=(0.05, 0.5),
        samples=20,
        baseline=0.4,
        generator=SampleGenerator(3, ["a", "b"]),
    )
    assert found.shape == (2, 2)
    for row, name in enumerate(("a", "b")):
        ranks = pixel_ranks(SampleGenerator(3, [name]), 20, 80)
        target = int(model(images[row : row + 1]).argmax())
        for column, count in enumerate((4, 40)):
            sums, drops = [], []
            for order in ranks.tolist():
                chosen = [pixel for pixel, rank in enumerate(order) if rank < count]
                assert len(chosen) == count
                altered = images[row].clone().flatten(1)
                altered[:, chosen] = 0.4
                pair = torch.stack([images[row], altered.view(3, 8, 10)])
                before, after = model(pair)[:, target].tolist()
                drops.append(before - after)
                sums.append(sum(maps[row].flatten()[pixel].item() for pixel in chosen))
            expected = stats.pearsonr(sums, drops).statistic
            assert found[row, column].item() == pytest.approx(expected, abs=1e-9)


def test_input_times_gradient_of_a_linear_model_is_perfect() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 80, 2)).double()
    images = torch.rand(3, 3, 8, 10, dtype=torch.float64)
    classes = model(images).argmax(1)
    maps = (images * model[1].weight.detach()[classes].view(3, 3, 8, 10)).sum(1)
    found = sensitivity_n(model, images, 5 * maps)
    torch.testing.assert_close(found, torch.ones(3, 5).double())
    assert not sensitivity_n(model, images, torch.ones(3, 8, 10)).any()


def test_orders_are_random_and_belong_to_the_sample() -> None:
    ranks = pixel_ranks(SampleGenerator(0, ["a"]), 500, 12)
    assert torch.equal(ranks.sort(1).values, torch.arange(12).expand(500, 12))
    assert float((ranks.double().mean(0) - 5.5).abs().max()) < 1
    assert torch.equal(ranks, pixel_ranks(SampleGenerator(0, ["a"]), 500, 12))


def test_counts_of_pixels() -> None:
    assert pixel_counts((0.001, 0.25), 80) == [1, 20]
    for shares in ((0.0,), (1.0,), (0.999,), ()):
        with pytest.raises(UserError, match="`shares`"):
            pixel_counts(shares, 80)


@pytest.mark.skipif(importlib.util.find_spec("quantus") is None, reason="quantus is missing")
def test_quantus_correlates_the_same() -> None:
    """Its correlation, from which its own sensitivity-n comes; its sets are those of the map's
    order and its correlation runs over images, so no more can be held against it."""
    from quantus.functions.similarity_func import correlation_pearson

    stream = torch.Generator().manual_seed(0)
    sums, drops = torch.randn(2, 4, 30, generator=stream, dtype=torch.float64)
    expected = correlation_pearson(a=drops.numpy(), b=sums.numpy(), batched=True)
    np.testing.assert_allclose(pearson(sums, drops).numpy(), expected, atol=1e-12)
