from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from saliency_lab.evaluation.exact_truth.scores import (
    energy_shares,
    marked_patches,
    patch_means,
    rank_correlations,
    sign_agreements,
    true_views,
)

CONTRIBUTIONS = torch.tensor(
    [[[[2.0, -1.0], [0.5, 0.0]], [[1.0, -3.0], [0.5, 1.0]], [[-4.0, -0.5], [0.25, 2.0]]]]
)
"""(1, 3, 2, 2)"""


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rank_correlation_by_scipy():
    a, b = random(6, 4, 5), random(6, 4, 5, seed=1)
    b[1] = a[1] ** 3
    b[2] = -a[2]
    a[3], b[3] = a[3].round(), b[3].round()  # ties
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlations(a, b), expected, atol=1e-12)
    assert expected[1] == pytest.approx(1)
    assert expected[2] == pytest.approx(-1)


def test_no_order_no_correlation():
    flat, other = torch.ones(2, 9), random(2, 9)
    assert rank_correlations(flat, other).tolist() == [0, 0]
    assert rank_correlations(other, flat).tolist() == [0, 0]


def test_views_of_the_truth_by_hand():
    found = true_views(
        CONTRIBUTIONS,
        torch.zeros(1, 3),
        torch.tensor([0]),
        ("original", "positive", "negative", "active", "inactive"),
    )
    expected = {
        "original": [[2.0, 1.0], [0.5, 0.0]],
        "positive": [[2.0, 0.0], [0.5, 0.0]],
        "negative": [[0.0, 1.0], [0.0, 0.0]],
        # 0.5 ties with another class; −1 lies between; 0 is the smallest of 0, 1 and 2.
        "active": [[2.0, 0.0], [0.0, 0.0]],
        "inactive": [[0.0, 0.0], [0.0, 0.0]],
    }
    for view, values in expected.items():
        assert found[view][0].tolist() == values, view
    last = true_views(CONTRIBUTIONS, torch.zeros(1, 3), torch.tensor([2]), ("active", "inactive"))
    assert last["active"][0].tolist() == [[0.0, 0.5], [0.0, 2.0]]
    assert last["inactive"][0].tolist() == [[4.0, 0.0], [0.25, 0.0]]


def test_marked_patches_by_hand():
    own = CONTRIBUTIONS[:, 0]
    assert marked_patches(own.abs(), own, "original")[0].tolist() == [[True, False], [True, False]]
    negative = (-own).clamp_min(0)
    assert marked_patches(negative, own, "negative")[0].tolist() == [[False, True], [False, False]]


def test_patch_means_by_hand():
    found = patch_means(torch.arange(16.0).view(1, 4, 4), 2)
    assert found[0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_energy_by_hand():
    maps = torch.tensor([[3.0, 1.0, -5.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    marked = torch.tensor([[True, False, True, False], [True, True, True, False]])
    share, chance = energy_shares(maps, marked)
    assert share.tolist() == [0.75, 0.75]  # the second map is empty: what a random one gets
    assert chance.tolist() == [0.5, 0.75]


def test_the_chance_is_the_mean_over_all_orders():
    values, marked = random(8).abs(), torch.arange(8) < 3
    order = torch.stack([torch.randperm(8) for _ in range(4000)])
    share, chance = energy_shares(values[order], marked.expand(4000, 8))
    assert float(share.mean()) == pytest.approx(float(chance[0]), abs=0.02)
    assert float(chance[0]) == 3 / 8


def test_sign_agreement_by_hand():
    truth = torch.tensor([[1.0, 2.0, 3.0, -1.0, 0.0]])
    cases = {
        (1.0, 1.0, 1.0, -1.0, 9.0): 1.0,
        (1.0, 1.0, 1.0, 1.0, 1.0): 0.5,
        (-1.0, -1.0, -1.0, 1.0, 1.0): 0.0,
        (1.0, 1.0, -1.0, -1.0, 0.0): (2 / 3 + 1) / 2,
        (0.0, 0.0, 0.0, 0.0, 0.0): 0.5,
    }
    for values, expected in cases.items():
        assert sign_agreements(torch.tensor([values]), truth).tolist() == [pytest.approx(expected)]
    assert sign_agreements(torch.ones(1, 3), torch.ones(1, 3)).tolist() == [1.0]
    assert sign_agreements(torch.ones(1, 3), torch.zeros(1, 3)).tolist() == [0.5]
