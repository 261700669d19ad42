from __future__ import annotations

from itertools import permutations

import pytest
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.superpixels import superpixel_labels
from saliency_lab.attribution.methods.kernel_shap import coalitions, kernel_shap, shapley_values

pytestmark = pytest.mark.usefixtures("float64")


def _by_orders(value, players):
    """Shapley values as the mean marginal gain over all orders of joining."""
    totals = [0.0] * players
    orders = list(permutations(range(players)))
    for order in orders:
        present: set[int] = set()
        before = value(frozenset(present))
        for player in order:
            present.add(player)
            after = value(frozenset(present))
            totals[player] += after - before
            before = after
    return [total / len(orders) for total in totals]


def test_exact_by_enumeration_on_a_small_net(relu_net, images, classes):
    found = kernel_shap(
        relu_net, images, classes, samples=14, segments=4, superpixels="grid", baseline="black"
    )
    labels = superpixel_labels(images[0], "grid", 4)
    for b in range(3):
        known = {}

        def value(present, b=b, known=known):
            if present not in known:
                shown = torch.isin(labels, torch.tensor(sorted(present), dtype=torch.long))
                with torch.no_grad():
                    known[present] = float(relu_net(images[b : b + 1] * shown)[0, classes[b]])
            return known[present]

        expected = torch.tensor(_by_orders(value, 4))
        assert torch.allclose(found[b], expected[labels].float(), atol=1e-6)


def test_sampled_values_of_an_additive_game_are_exact(linear_net, images, classes):
    settings = {"segments": 16, "superpixels": "grid", "baseline": "black"}
    found = kernel_shap(linear_net, images, classes, samples=60, **settings)
    labels = superpixel_labels(images[0], "grid", 16)
    terms = (linear_net.weight[classes] * images).sum(1).detach()
    for b in range(3):
        for label in range(16):
            inside = labels == label
            assert torch.allclose(found[b][inside], terms[b][inside].sum().float(), atol=1e-5)


@pytest.mark.parametrize("samples", [3, 50])
def test_values_sum_to_the_gain(samples, relu_net, images, classes):
    found = kernel_shap(
        relu_net, images, classes, samples=samples, segments=9, superpixels="grid", baseline="white"
    )
    labels = superpixel_labels(images[0], "grid", 9)
    gain = relu_net(images) - relu_net(torch.ones_like(images))
    first = [int((labels == label).flatten().nonzero()[0]) for label in range(9)]
    total = found.flatten(1)[:, first].sum(1)
    assert torch.allclose(total, gain.gather(1, classes[:, None])[:, 0].float(), atol=1e-5)


def test_coalitions_are_drawn_by_the_kernel_in_pairs():
    shown, weights = coalitions(6, 20000, SampleGenerator(0, "a"))
    assert len(shown) == 2**6 - 2
    assert len(set(map(tuple, shown.tolist()))) == len(shown)
    players = 30
    shown, weights = coalitions(players, 20000, SampleGenerator(0, "a"))
    assert (weights == 1).all()
    assert torch.equal(shown[0::2], ~shown[1::2])
    sizes = torch.arange(1, players)
    kernel = 1 / (sizes * (players - sizes)).double()
    share = torch.bincount(shown.sum(1), minlength=players)[1:] / len(shown)
    assert torch.allclose(share, kernel / kernel.sum(), atol=0.012)


def test_one_player_gets_all():
    shown, weights = coalitions(1, 10, SampleGenerator(0, "a"))
    values = shapley_values(
        shown.double(), weights, torch.zeros(0), torch.tensor(3.0), torch.tensor(1.0)
    )
    assert values.tolist() == [2.0]
