from __future__ import annotations

import pytest
import torch
from torch import nn

from saliency_lab.errors import UserError
from saliency_lab.evaluation.hull.sensitivity import relative_sensitivity
from saliency_lab.inference.engine import Engine


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 3)).double()


def test_of_a_linear_model_it_is_the_mean_contribution_of_the_masked_pixels(linear):
    images = torch.rand(4, 3, 4, 5, dtype=torch.float64)
    masks = torch.rand(4, 4, 5) < 0.4
    masks[:, 0, 0] = True
    targets = torch.tensor([2, 0, 1, 1])
    found = relative_sensitivity(linear, images, masks, targets)
    weight = linear[1].weight.detach()
    for image, mask, target, value in zip(images, masks, targets, found, strict=True):
        contribution = (weight[target].view(3, 4, 5) * image).sum(0)
        torch.testing.assert_close(value, contribution[mask].sum().abs() / mask.sum())


def test_one_pixel_and_an_empty_mask(linear):
    images, masks = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.zeros(2, 4, 5) > 0
    masks[0, 1, 2] = True
    found = relative_sensitivity(linear, images, masks, torch.tensor([1, 1]))
    weight = linear[1].weight.detach()[1].view(3, 4, 5)
    torch.testing.assert_close(found[0], (weight[:, 1, 2] * images[0, :, 1, 2]).sum().abs())
    assert found[1].isnan()


def test_the_predicted_class_is_the_default_and_the_fast_model_agrees(linear):
    model, images = linear.float(), torch.rand(3, 3, 4, 5)
    masks = torch.rand(3, 4, 5) < 0.5
    given = relative_sensitivity(model, images, masks, model(images).argmax(1))
    assert torch.equal(relative_sensitivity(model, images, masks), given)
    fast = relative_sensitivity(Engine().prepare(model, images), images, masks)
    torch.testing.assert_close(fast, given, rtol=1e-4, atol=1e-6)


def test_wrong_masks_are_refused(linear):
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    for masks in (torch.ones(2, 4, 5), torch.ones(2, 3, 4, 5) > 0):
        with pytest.raises(UserError, match="`masks`"):
            relative_sensitivity(linear, images, masks)
