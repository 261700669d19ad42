"""Copies that share a pass: as many as fit, and the same sums however they are grouped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saliency_lab.attribution.core import sample_groups
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sample_groups import copies_at_once, groups
from saliency_lab.attribution.core.superpixels import shown_logits
from saliency_lab.attribution.methods import gradient_shap as shap_module
from saliency_lab.attribution.methods import integrated_gradients as path_module
from saliency_lab.attribution.methods import smoothgrad as noise_module
from saliency_lab.attribution.methods.rise import shifted_masks

pytestmark = pytest.mark.usefixtures("float64")


def test_the_points_in_order_and_a_smaller_last_group():
    assert list(groups(iter("abcdefg"), 3)) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert list(groups([], 3)) == []


def test_as_many_copies_as_a_pass_profits_from(relu_net, images, monkeypatch):
    small = copies_at_once(relu_net, images)
    assert small > 1
    # Half of a pass is not worth a second copy, nor is more than one.
    whole = 3 * small
    assert copies_at_once(relu_net, images[:1].expand(whole, -1, -1, -1)) == 1
    assert copies_at_once(relu_net, images[:1]) in range(whole, whole + 3)
    taken = sample_groups.image_bytes(relu_net, images[:1])["maps"]
    monkeypatch.setattr(sample_groups, "free_bytes", lambda device: 2 * 7 * taken)
    assert copies_at_once(relu_net, images) == 2
    monkeypatch.setattr(sample_groups, "free_bytes", lambda device: 0)
    assert copies_at_once(relu_net, images) == 1


@pytest.mark.parametrize("module", [noise_module, path_module, shap_module])
def test_groups_change_nothing(module, relu_net, images, classes, monkeypatch):
    generator = SampleGenerator(3, "abc")
    found = []
    for size in (1, 2, 5, 100):
        monkeypatch.setattr(module, "copies_at_once", lambda model, images, size=size: size)
        if module is noise_module:
            one = [noise_module.smoothgrad(relu_net, images, samples=7, generator=generator)]
            maps = [
                form(relu_net, images, classes, samples=7, generator=generator)
                for form in (noise_module.smoothgrad_squared, noise_module.vargrad)
            ]
        elif module is path_module:
            one = [path_module.integrated_gradients(relu_net, images, baseline="several", steps=3)]
            maps = []
        else:
            shap = shap_module.gradient_shap
            one = [shap(relu_net, images, samples=6, noise=0.1, generator=generator)]
            maps = []
        found.append([field.of(classes) for field in one] + maps)
    for other in found[1:]:
        for expected, got in zip(found[0], other, strict=True):
            assert got.shape == expected.shape
            assert torch.allclose(got, expected, rtol=1e-6 if got.dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize(("height", "width", "cells"), [(18, 23, 4), (32, 32, 7), (7, 5, 7)])
def test_masks_are_enlarged_grids_cut_out(height, width, cells):
    grids = (torch.rand(40, cells + 1, cells + 1) < 0.5).double()
    shifts = torch.rand(40, 2)
    tall, wide = -(-height // cells), -(-width // cells)
    found = shifted_masks(grids, shifts, height, width)
    for grid, shift, mask in zip(grids, shifts, found, strict=True):
        size = ((cells + 1) * tall, (cells + 1) * wide)
        large = F.interpolate(grid[None, None], size=size, mode="bilinear", align_corners=False)
        row, column = int(shift[0] * tall), int(shift[1] * wide)
        expected = large[0, 0, row : row + height, column : column + width]
        torch.testing.assert_close(mask, expected, rtol=0, atol=1e-12)


def test_equal_coalitions_share_a_forward(images):
    class Counting(nn.Module):
        seen = 0

        def forward(self, x):
            Counting.seen += len(x)
            return x.sum((2, 3))

    labels = torch.arange(8)[:, None].expand(8, 8) // 2
    shown = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    found = shown_logits(Counting(), images[0], torch.zeros(3, 8, 8), labels, shown, 1)
    bands = images[0, 1].sum(1).view(4, 2).sum(1)
    assert torch.allclose(found, shown.double() @ bands)
    assert Counting.seen == 3
