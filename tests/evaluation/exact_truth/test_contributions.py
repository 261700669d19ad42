from __future__ import annotations

from math import comb

import pytest
import torch
from captum.attr import ShapleyValues
from torch import nn

from saliency_lab.errors import UserError
from saliency_lab.evaluation.exact_truth.contributions import (
    additive_part,
    mean_patch,
    patch_contributions,
    patch_logits,
)
from saliency_lab.models.basic_cnn import BasicCNN
from saliency_lab.models.network import Network, Normalize
from saliency_lab.models.patch_sum import PatchSum


@pytest.fixture
def model():
    """Normalisation and a PatchSum in float64, with batch norms that are no identities."""
    torch.manual_seed(0)
    backbone = PatchSum(3, patch=4, width=6, depth=1)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
    normal = Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    return Network(normal, backbone, nn.Identity(), freeze_bn=True).double()


@pytest.fixture
def images():
    """Of 3×4 patches."""
    return torch.rand(2, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def shapley_by_all_coalitions(model, image, baseline):
    """Shapley's sum over all 2^12 coalitions of patches, (K, 12), for one image."""
    bits = torch.arange(2**12)[:, None] >> torch.arange(12) & 1
    shown = bits.bool().view(-1, 1, 3, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    tiled = baseline.repeat(1, 3, 4)
    with torch.no_grad():
        value = model(torch.where(shown, image, tiled))
    others = bits.sum(1)
    found = torch.zeros(3, 12, dtype=torch.float64)
    for place in range(12):
        without = (bits[:, place] == 0).nonzero()[:, 0]
        weights = torch.tensor([1 / (12 * comb(11, int(size))) for size in others[without]])
        gain = value[without + 2**place] - value[without]
        found[:, place] = (weights.double()[:, None] * gain).sum(0)
    return found


@pytest.mark.parametrize("kind", ["black", "grey"])
def test_shapley_values_of_all_coalitions_of_twelve_patches(model, images, kind):
    baseline = torch.zeros(3, 4, 4, dtype=torch.float64)
    if kind == "grey":
        baseline = torch.rand(3, 4, 4, dtype=torch.float64)
    model.eval()
    expected = shapley_by_all_coalitions(model, images[1], baseline)
    found = patch_contributions(model, images, baseline).flatten(2)[1]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert found.abs().min() > 1e-6


def test_captums_shapley_values(model, images):
    """All 720 orders of six blocks of two patches each."""
    model.eval()
    block = 2 * (torch.arange(12) // 4)[:, None] + torch.arange(16) // 8
    found = patch_contributions(model, images, torch.zeros(3, 4, 4, dtype=torch.float64))
    sums = found.unflatten(3, (2, 2)).sum(4)
    expected = ShapleyValues(model).attribute(
        images, target=2, feature_mask=block[None, None], perturbations_per_eval=8
    )
    torch.testing.assert_close(expected[:, 0, ::4, ::8].double(), sums[:, 2], rtol=1e-4, atol=1e-6)


def test_shares_add_up_to_the_change_of_the_logit(model, images):
    baseline = torch.rand(3, 4, 4, dtype=torch.float64)
    found = patch_contributions(model, images, baseline)
    model.eval()
    change = model(images) - model(baseline.repeat(1, 3, 4)[None])
    torch.testing.assert_close(found.sum((2, 3)), change)


def test_the_model_is_left_as_it_was(model, images):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    patch_logits(model, images)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not model.backbone._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class _Bent(nn.Module):
    """A PatchSum whose logits go through a square afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = PatchSum(3, patch=4, width=6, depth=1)

    def forward(self, x):
        return self.inner(x).square() + 1


def test_models_that_are_no_sum_are_refused(images):
    for model in (BasicCNN(3), Network(nn.Identity(), BasicCNN(3), nn.Identity(), True)):
        with pytest.raises(UserError, match=r"\(model=patch_sum\), but got BasicCNN$"):
            additive_part(model)
    with pytest.raises(UserError, match="mean of its patches' logits, but its logits differ"):
        patch_logits(_Bent(), images)


def test_mean_patch_by_hand(images):
    total = torch.zeros(3, 4, 4, dtype=torch.float64)
    for image in images:
        for top in range(0, 12, 4):
            for left in range(0, 16, 4):
                total += image[:, top : top + 4, left : left + 4]
    torch.testing.assert_close(mean_patch(images, 4), total / 24)
