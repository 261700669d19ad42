"""Which pixels of an image are replaced, and by what, against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.evaluation.retraining.alteration import altered, pixel_ranks
from saliency_lab.evaluation.retraining.conditions import Condition, chosen_conditions
from saliency_lab.imputation.linear import road

MEAN = (7, 130, 255)
SHAPE = (3, 5, 4)  # 20 pixels


@pytest.fixture
def images():
    numbers = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    return torch.from_numpy(numbers)


@pytest.fixture
def maps():
    return torch.from_numpy(np.random.default_rng(1).normal(size=(6, *SHAPE[1:])).astype("float32"))


def streams(count=6, seed=3):
    return SampleGenerator(seed, [f"image-{number}" for number in range(count)])


def test_ranks_are_the_descending_order(maps):
    ranks = pixel_ranks(maps, streams())
    for values, places in zip(maps.double().numpy(), ranks.numpy(), strict=True):
        for row in range(5):
            for column in range(4):
                assert places[row, column] == (values > values[row, column]).sum()


def test_tied_pixels_are_in_random_order_behind_greater_ones():
    tied = torch.zeros(400, 2, 3)
    tied[:, 1, 1] = 2.0
    tied[:, 0, 2] = -1.0
    ranks = pixel_ranks(tied, streams(400))
    assert (ranks[:, 1, 1] == 0).all()
    assert (ranks[:, 0, 2] == 5).all()
    assert sorted(ranks[0].flatten().tolist()) == list(range(6))
    # Four tied pixels, each of which should have place 1 in about a quarter of 400 images.
    first = (ranks == 1).sum(0).flatten()
    chosen = first[first > 0]
    assert len(chosen) == 4
    assert chosen.min() > 60
    assert chosen.max() < 140


def test_an_images_ranks_are_its_own_whatever_batch_it_is_in():
    tied = torch.zeros(6, 5, 4)
    together = pixel_ranks(tied, streams())
    alone = pixel_ranks(tied[4:5], SampleGenerator(3, ["image-4"]))
    assert torch.equal(together[4], alone[0])
    assert not torch.equal(together, pixel_ranks(tied, streams(seed=4)))


# 20 pixels: 0.1 is 2 of them, 0.025 half a one (to the even neighbour: none), 0.075 one and a half.
@pytest.mark.parametrize(
    ("fraction", "count"), [(0, 0), (0.025, 0), (0.075, 2), (0.1, 2), (0.5, 10), (0.9, 18), (1, 20)]
)
@pytest.mark.parametrize("order", ["remove", "keep", "mask"])
def test_the_right_pixels_get_the_training_images_mean(images, maps, order, fraction, count):
    ranks = pixel_ranks(maps, streams())
    fill = "none" if order == "mask" else "mean"
    found = altered(images, ranks, Condition(order, fill, fraction), MEAN, streams())
    assert found.dtype == torch.uint8
    for number in range(6):
        values = maps[number].flatten().tolist()
        important = set(sorted(range(20), key=lambda pixel: -values[pixel])[:count])
        for pixel in range(20):
            row, column = divmod(pixel, 4)
            for channel in range(3):
                intact = int(images[number, channel, row, column])
                expected = {
                    "remove": MEAN[channel] if pixel in important else intact,
                    "keep": intact if pixel in important else MEAN[channel],
                    "mask": 255 if pixel in important else 0,
                }[order]
                assert int(found[number, channel, row, column]) == expected


@pytest.mark.parametrize("order", ["remove", "keep"])
def test_road_imputes_the_same_pixels_and_rounds(images, maps, order):
    ranks = pixel_ranks(maps, streams())
    found = altered(images, ranks, Condition(order, "road", 0.5), MEAN, streams())
    removed = ranks < 10 if order == "remove" else ranks >= 10
    kept = ~removed[:, None].expand_as(images)
    assert torch.equal(found[kept], images[kept])
    expected = road(images.double() / 255, removed, generator=streams()).clamp(0, 1) * 255
    assert (found.double() - expected).abs().max() <= 0.5 + 1e-3
    assert not torch.equal(found, images)


def test_masks_have_no_fill_and_come_once():
    found = chosen_conditions(["remove", "mask"], ["mean", "road"], [0.1, 0.5])
    assert [condition.label for condition in found] == [
        "remove-mean-0.1", "remove-road-0.1", "remove-mean-0.5", "remove-road-0.5",
        "mask-none-0.1", "mask-none-0.5",
    ]  # fmt: skip
