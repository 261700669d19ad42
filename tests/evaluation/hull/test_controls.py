from __future__ import annotations

import pytest
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.evaluation.hull.controls import random_hulls, random_subsets, top_pixels
from saliency_lab.evaluation.hull.hulls import convex_hulls


def test_a_random_subset_is_of_the_mask_and_of_the_asked_size():
    masks = torch.rand(5, 12, 10) < 0.5
    counts = torch.tensor([0, 1, 7, 20, 30])
    found = random_subsets(masks, counts, SampleGenerator(1, range(5)))
    assert found.sum((1, 2)).tolist() == counts.tolist()
    assert not (found & ~masks).any()
    again = random_subsets(masks[3:4], counts[3:4], SampleGenerator(1, [3]))
    assert torch.equal(again, found[3:4])
    assert not torch.equal(random_subsets(masks, counts, SampleGenerator(2, range(5))), found)


def test_every_pixel_of_a_mask_is_drawn_alike():
    masks = torch.zeros(2000, 2, 5, dtype=torch.bool)
    masks[:, :, :4] = True
    counts = torch.full((2000,), 2)
    drawn = random_subsets(masks, counts, SampleGenerator(0, range(2000))).float().mean(0)
    assert (drawn[:, 4] == 0).all()
    # Each of eight pixels is drawn with probability 1/4: standard deviation 0.0097.
    torch.testing.assert_close(drawn[:, :4], torch.full((2, 4), 0.25), atol=0.04, rtol=0)


def test_the_top_of_a_map():
    maps = torch.tensor([[[5.0, 1.0], [5.0, 7.0]]])
    found = top_pixels(maps, torch.tensor([2]))
    assert found.tolist() == [[[True, False], [False, True]]]


@pytest.mark.parametrize("area", [1, 9, 50, 200, 255, 256])
def test_random_hulls_are_convex_of_equal_area_and_elsewhere(area):
    generator = SampleGenerator(3, range(12))
    found = random_hulls(torch.full((12,), area), (16, 16), generator)
    hulls = convex_hulls(found)
    assert found.sum((1, 2)).tolist() == [area] * 12
    assert torch.equal(hulls.filled, found)
    if 1 < area < 255:
        assert len({tuple(mask.flatten().tolist()) for mask in found}) > 8


def test_a_random_hull_of_no_pixel():
    found = random_hulls(torch.tensor([0]), (6, 5), SampleGenerator(3, [0]))
    assert not found.any()
