"""Prediction gaps against a loop over single images, and on models that read some pixels only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.evaluation.pgi_pgu.gaps import prediction_gaps


def test_gaps_are_means_over_the_noise() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 80, 8), nn.Tanh(), nn.Linear(8, 3))
    model = model.double()
    images = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    maps = torch.stack([torch.randperm(80).view(8, 10).double() for _ in range(2)])
    found = prediction_gaps(
        model,
        images,
        maps,
        fractions=(0.1, 0.5),
        sigma=0.3,
        samples=6,
        generator=SampleGenerator(3, ["a", "b"]),
    )
    for row, name in enumerate(("a", "b")):
        noise = 0.3 * SampleGenerator(3, [name]).normal(6, 3, 8, 10)[0].double()
        before = model(images[row : row + 1]).softmax(1).detach()
        target = int(before.argmax())
        for column, count in enumerate((8, 40)):
            important = maps[row] >= 80 - count
            for gaps, chosen in ((found.pgi, important), (found.pgu, ~important)):
                moved = [
                    abs(
                        float(
                            model((images[row] + one * chosen)[None]).softmax(1)[0, target].detach()
                        )
                        - float(before[0, target])
                    )
                    for one in noise
                ]
                assert gaps[row, column].item() == pytest.approx(sum(moved) / 6, abs=1e-9)


def test_a_model_that_reads_the_left_half() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 2))
    weights = torch.zeros(2, 8, 10)
    weights[0, :, :5] = 0.3
    model[1].weight.data, model[1].bias.data = weights.flatten(1), -0.4 * weights.sum((1, 2))
    images = torch.rand(3, 1, 8, 10)
    maps = (weights[0] > 0).float().expand(3, 8, 10)
    right = prediction_gaps(model, images, maps, fractions=(0.5,))
    assert float(right.pgu.max()) < 1e-6
    assert float(right.pgi.min()) > 0.01
    wrong = prediction_gaps(model, images, -maps, fractions=(0.5,))
    assert float(wrong.pgi.max()) < 1e-6
    torch.testing.assert_close(wrong.pgu, right.pgi)


def test_wrong_arguments_are_refused() -> None:
    model, images = nn.Flatten(), torch.rand(2, 3, 8, 10)
    with pytest.raises(UserError, match="`maps`"):
        prediction_gaps(model, images, torch.rand(2, 10, 8))
    with pytest.raises(UserError, match="`fractions`"):
        prediction_gaps(model, images, torch.rand(2, 8, 10), fractions=(0.5, 0.1))
    with pytest.raises(UserError, match="`targets`"):
        prediction_gaps(model, images, torch.rand(2, 8, 10), targets=torch.tensor([0, 240]))
