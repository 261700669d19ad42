from __future__ import annotations

import pytest
import torch

from saliency_lab.attribution.core.superpixels import segment_means, superpixel_labels

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("superpixels", ["slic", "grid"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_labels_have_no_gaps(superpixels, channels):
    image = torch.rand(channels, 20, 30, generator=torch.Generator().manual_seed(0))
    labels = superpixel_labels(image, superpixels, 12)
    assert labels.shape == (20, 30)
    count = int(labels.max()) + 1
    assert labels.unique().tolist() == list(range(count))
    assert 6 <= count <= 24


def test_grid_is_of_equal_rectangles():
    labels = superpixel_labels(torch.zeros(3, 8, 8), "grid", 4)
    assert labels.flatten().bincount().tolist() == [16, 16, 16, 16]
    assert (labels[:4, :4] == 0).all()
    assert (labels[4:, 4:] == 3).all()


def test_a_wide_grid_counts_along_its_rows():
    labels = superpixel_labels(torch.zeros(3, 4, 12), "grid", 3)
    assert labels.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 4
    labels = superpixel_labels(torch.zeros(3, 4, 8), "grid", 8)
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6, 7, 7]] * 2


def test_slic_follows_an_edge():
    image = torch.zeros(3, 20, 20)
    image[:, :, 7:] = 1
    labels = superpixel_labels(image, "slic", 6)
    assert not set(labels[:, :7].unique().tolist()) & set(labels[:, 7:].unique().tolist())


def test_means_per_segment():
    image = torch.arange(12.0).view(1, 3, 4)
    labels = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    means = segment_means(image, labels)
    assert means[0].tolist() == [[2.5, 2.5, 4.5, 4.5], [2.5, 2.5, 4.5, 4.5], [9.5] * 4]
    coloured = segment_means(torch.cat([image, -image, 0 * image]), labels)
    assert torch.equal(coloured, torch.cat([means, -means, 0 * means]))


def test_a_grey_image_is_cut_as_the_same_image_in_colour():
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    disc = (((rows - 20) ** 2 + (columns - 26) ** 2) < 196).double()[None]
    grey = superpixel_labels(disc, "slic", 20)
    assert torch.equal(grey, superpixel_labels(disc.expand(3, -1, -1), "slic", 20))
    assert not torch.equal(grey, superpixel_labels(torch.zeros(1, 48, 48), "slic", 20))
