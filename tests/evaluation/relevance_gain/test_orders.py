"""The relevance gain against a loop over single images, and where it can be worked out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.superpixels import superpixel_labels
from saliency_lab.errors import UserError
from saliency_lab.evaluation.relevance_gain.orders import relevance_gain, removal_orders
from saliency_lab.imputation.linear import road

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)


def net(pixels: int = 80) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * pixels, 16), nn.Tanh(), nn.Linear(16, 3))


def slow_area(model: nn.Module, image: Tensor, units: list[list[int]], order: list[int]) -> float:
    """The trapezoid under the probability as units, lists of pixels, go in an order (mean fill)."""
    target = int(model(image[None]).argmax())
    mean = image.mean((1, 2))
    heights = []
    for share in STEPS:
        masked = image.clone().flatten(1)
        for unit in order[: round(share * len(units))]:
            masked[:, units[unit]] = mean[:, None]
        logits = model(masked.view_as(image)[None])[0].detach().double().numpy()
        heights.append(float(np.exp(logits)[target] / np.exp(logits).sum()))
    return float(np.trapezoid(heights, STEPS))


def test_pixels_go_one_by_one_in_both_orders() -> None:
    model, images = net(), torch.rand(3, 3, 8, 10)
    maps = torch.stack([torch.randperm(80).view(8, 10).float() for _ in range(3)])
    found = relevance_gain(model, images, maps, fractions=STEPS)
    for row in range(3):
        units = [[pixel] for pixel in range(80)]
        rising = maps[row].flatten().argsort().tolist()
        least = slow_area(model, images[row], units, rising)
        most = slow_area(model, images[row], units, rising[::-1])
        assert found.least_first[row].item() == pytest.approx(least, abs=1e-6)
        assert found.most_first[row].item() == pytest.approx(most, abs=1e-6)
        assert found.gain[row].item() == pytest.approx(least - most, abs=1e-6)


def test_superpixels_go_by_their_mean() -> None:
    model, images, maps = net(16 * 20), torch.rand(2, 3, 16, 20), torch.rand(2, 16, 20)
    found = relevance_gain(model, images, maps, segments=12, fractions=STEPS)
    for row in range(2):
        labels = superpixel_labels(images[row], "slic", 12).flatten().tolist()
        units = [
            [p for p, own in enumerate(labels) if own == one] for one in range(max(labels) + 1)
        ]
        means = [np.mean([maps[row].flatten()[p].item() for p in unit]) for unit in units]
        rising = [int(place) for place in np.argsort(means)]
        least = slow_area(model, images[row], units, rising)
        most = slow_area(model, images[row], units, rising[::-1])
        assert found.gain[row].item() == pytest.approx(least - most, abs=1e-6)


def test_the_contribution_of_each_pixel_gains_most_and_its_opposite_least() -> None:
    """Logits (Σ w·x, 0) with a black fill: the truth is w·x, and its order is the best there is."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2, bias=False))
    stream = torch.Generator().manual_seed(2)
    weights = torch.rand(48, generator=stream) / 5
    model[1].weight.data = torch.stack([weights, torch.zeros(48)])
    images = torch.rand(4, 3, 4, 4, generator=stream)
    truth = (images * weights.view(3, 4, 4)).sum(1)
    best = relevance_gain(model, images, truth, fill="black").gain
    worst = relevance_gain(model, images, -truth, fill="black").gain
    torch.testing.assert_close(best, -worst, atol=1e-6, rtol=0)
    for _ in range(5):
        other = relevance_gain(model, images, torch.rand(4, 4, 4, generator=stream), fill="black")
        assert bool((other.gain < best).all())
        assert bool((other.gain > worst).all())


def test_a_constant_map_gains_nothing() -> None:
    images = torch.rand(2, 3, 8, 10)
    for segments in ("pixels", 10):
        found = relevance_gain(net(), images, torch.ones(2, 8, 10), segments=segments)
        assert found.gain.tolist() == [0, 0]


def test_road_fills_what_is_gone() -> None:
    model, images, maps = net(), torch.rand(2, 3, 8, 10), torch.rand(2, 8, 10)
    streams = SampleGenerator(3, ["a", "b"])
    found = relevance_gain(model, images, maps, fill="road", fractions=STEPS, generator=streams)
    least, _ = removal_orders(maps, None, STEPS)
    classes, heights = model(images).argmax(1), []
    for step in range(len(STEPS)):
        imputed = road(images, least <= step, generator=SampleGenerator(3, ["a", "b"]))
        heights.append(model(imputed).softmax(1)[range(2), classes].detach().double())
    expected = np.trapezoid(torch.stack(heights, 1).numpy(), STEPS)
    np.testing.assert_allclose(found.least_first.numpy(), expected, atol=1e-6)


def test_wrong_arguments_are_refused() -> None:
    images, maps = torch.rand(2, 3, 8, 10), torch.rand(2, 8, 10)
    with pytest.raises(UserError, match=r"`maps` to be \(2, 8, 10\)"):
        relevance_gain(net(), images, maps.mT)
    with pytest.raises(UserError, match="`segments`"):
        relevance_gain(net(), images, maps, segments=1)
    with pytest.raises(UserError, match="`fill`"):
        relevance_gain(net(), images, maps, fill="rode")
