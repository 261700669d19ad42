from __future__ import annotations

import pytest
import torch

from saliency_lab.attribution.core import perturbation
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.rise import rise, shifted_masks
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")


def test_masks_keep_their_mean_and_range():
    generator = SampleGenerator(0, "a")
    grids = (generator.uniform(800, 5, 5)[0] < 0.3).double()
    masks = shifted_masks(grids, generator.uniform(800, 2)[0].double(), 18, 23)
    assert masks.shape == (800, 18, 23)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-12
    # Every pixel is as likely to be shown, also at the border.
    assert torch.allclose(masks.mean(0), torch.full((18, 23), 0.3), atol=0.06)


def test_a_shift_moves_the_mask():
    grid = torch.rand(1, 4, 4).round().repeat(2, 1, 1)
    still, moved = shifted_masks(grid, torch.tensor([[0.0, 0.0], [0.5, 0.25]]), 12, 12)
    assert torch.equal(moved[:-2, :-1], still[2:, 1:])


def test_the_sum_by_hand(relu_net, images, classes, monkeypatch):
    found = rise(relu_net, images, classes, samples=9, cells=3, keep=0.4)
    for b in range(3):
        stream = SampleGenerator(0, [b])
        grids = (stream.uniform(9, 4, 4)[0] < 0.4).double()
        masks = shifted_masks(grids, stream.uniform(9, 2)[0].double(), 8, 8)
        total = torch.zeros(8, 8)
        for mask in masks:
            total += relu_net(images[b : b + 1] * mask).softmax(1)[0, classes[b]].detach() * mask
        assert torch.allclose(found[b], (total / 9 / 0.4).float())
    # Few at a time gives the same.
    monkeypatch.setattr(perturbation, "VALUES", 2 * images[0].numel())
    assert torch.allclose(rise(relu_net, images, classes, samples=9, cells=3, keep=0.4), found)


def test_a_seen_pixel_stands_out(classes):
    class Corner(torch.nn.Module):
        def forward(self, x):
            return torch.stack([10 * x[:, 0, 1, 6], torch.zeros(len(x))], 1)

    images = torch.ones(1, 3, 8, 8)
    found = rise(Corner(), images, torch.tensor([0]), samples=2000, cells=8)
    assert int(found[0].argmax()) == 1 * 8 + 6


def test_a_single_logit_is_refused(images):
    """Its softmax is 1 under every mask, so all such models would have the same map."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    with pytest.raises(UserError, match=r"at least two classes.* but got 1; .*\(0, s\)"):
        rise(model, images, torch.zeros(3, dtype=torch.long), samples=4)
