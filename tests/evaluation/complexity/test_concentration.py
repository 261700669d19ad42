"""How concentrated maps are: against Quantus, definitions written out, and closed forms."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from saliency_lab.evaluation.complexity.concentration import effective_area, entropy, sparseness


def drawn() -> Tensor:
    return torch.randn(4, 8, 10, generator=torch.Generator().manual_seed(0)) ** 3


def test_gini_is_the_mean_difference_of_all_pairs() -> None:
    maps = drawn()
    for row, found in enumerate(sparseness(maps).tolist()):
        values = maps[row].flatten().double().abs().numpy()
        pairs = np.abs(values[:, None] - values).mean()
        assert found == pytest.approx(pairs / (2 * values.mean()), abs=1e-12)


def test_entropy_is_scipys() -> None:
    maps = drawn()
    for row, found in enumerate(entropy(maps).tolist()):
        expected = stats.entropy(maps[row].flatten().double().abs().numpy())
        assert found == pytest.approx(expected, abs=1e-12)


def test_maps_that_one_can_work_out() -> None:
    maps = torch.zeros(4, 8, 10)
    maps[0, 3, 4] = -5
    maps[1] = 2e-30
    maps[2, :2] = 7e30
    ones = torch.tensor([79 / 80, 0, 0.75, 0]).double()
    torch.testing.assert_close(sparseness(maps), ones)
    logs = torch.tensor([0, math.log(80), math.log(20), math.log(80)]).double()
    torch.testing.assert_close(entropy(maps), logs)
    torch.testing.assert_close(effective_area(maps), torch.tensor([1 / 80, 1, 0.25, 1]).double())


def test_scale_and_sign_do_not_count() -> None:
    maps = drawn()
    for measure in (sparseness, entropy, effective_area):
        torch.testing.assert_close(measure(-1e-20 * maps), measure(maps), atol=1e-6, rtol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("quantus") is None, reason="quantus is missing")
def test_quantus_finds_the_same() -> None:
    import quantus

    maps = drawn().numpy()
    images = np.zeros((4, 3, 8, 10), dtype=np.float32)
    for metric, measure in ((quantus.Sparseness, sparseness), (quantus.Complexity, entropy)):
        scores = metric(normalise=False, abs=True, disable_warnings=True)(
            model=torch.nn.Identity(),
            x_batch=images,
            y_batch=np.zeros(4, dtype=int),
            a_batch=maps[:, None],
        )
        np.testing.assert_allclose(measure(drawn()).numpy(), scores, atol=1e-5)
