from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.controls import centre_bias, inverted, random_map, sobel
from saliency_lab.attribution.methods.gradient import gradient

pytestmark = pytest.mark.usefixtures("float64")


def test_random_map_belongs_to_the_sample(linear_net, images, classes):
    found = random_map(linear_net, images, classes, generator=SampleGenerator(1, "abc"))
    turned = random_map(linear_net, images, classes, generator=SampleGenerator(1, "cba"))
    other = random_map(linear_net, images, classes, generator=SampleGenerator(2, "abc"))
    assert torch.equal(found, turned.flip(0))
    assert not torch.equal(found, other)
    assert found.dtype == torch.float32
    assert len(found.unique()) > 180


def test_sobel_by_scipy(linear_net, images, classes):
    expected = np.zeros((3, 3, 8, 8))
    for b, k in np.ndindex(3, 3):
        plane = images[b, k].numpy()
        edges = [scipy.ndimage.sobel(plane, axis=axis, mode="nearest") / 4 for axis in (0, 1)]
        expected[b, k] = np.hypot(*edges)
    expected = expected.max(1)
    np.testing.assert_allclose(sobel(linear_net, images, classes), expected, rtol=1e-6)


def test_an_ideal_edge_is_one(linear_net, classes):
    images = torch.zeros(1, 3, 6, 6)
    images[:, 1, :, 3:] = 1
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float32)
    assert torch.equal(sobel(linear_net, images, classes)[0], expected.expand(6, 6))


def test_centre_bias_is_a_symmetric_bump(linear_net, classes):
    for height, width in ((8, 8), (7, 10)):
        bump = centre_bias(linear_net, torch.zeros(2, 3, height, width), classes)
        assert bump.shape == (2, height, width)
        assert torch.allclose(bump, bump.flip(1), atol=1e-6)
        assert torch.allclose(bump, bump.flip(2), atol=1e-6)
        middle = bump[0, height // 2 - (height + 1) % 2, width // 2 - (width + 1) % 2]
        assert middle == bump.max()
        y, x = 0.5 - height / 2, 0.5 - width / 2
        corner = np.exp(-((y / (height / 4)) ** 2 + (x / (width / 4)) ** 2) / 2)
        np.testing.assert_allclose(bump[0, 0, 0], corner, rtol=1e-5)


def test_inverted_is_minus_original(relu_net, images, classes):
    original = gradient(relu_net, images).of(classes).abs().amax(1)
    assert torch.allclose(inverted(relu_net, images, classes), -original.float())
