"""A map over its image: the formula by hand, and what a reader may conclude from a colour."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from saliency_lab.report.drawing.figures import example_grid
from saliency_lab.report.drawing.overlay import overlaid
from saliency_lab.report.drawing.palette import MAP_COLOURS


def test_each_pixel_is_a_mixture_of_grey_and_the_maps_colour() -> None:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[..., 0] = 255  # pure red has a luma of 0.299
    values = np.array([[0.0, 1.0], [2.0, 4.0]])
    # The 99.5th percentile of four numbers lies 98.5 % of the way from the third to the fourth.
    top = 2.0 + (4.0 - 2.0) * (0.995 * 3 - 2)
    found = overlaid(image, values)
    for place in np.ndindex(2, 2):
        strength = min(values[place] / top, 1.0)
        colour = np.array(mpl.colormaps[MAP_COLOURS](strength)[:3])
        expected = (1 - strength) * 0.299 + strength * colour
        np.testing.assert_allclose(found[place], expected, atol=1e-9)


def test_a_signed_map_is_red_above_zero_and_blue_below() -> None:
    image = np.full((1, 3, 1), 128, dtype=np.uint8)
    negative, nothing, positive = overlaid(image, np.array([[-3.0, 0.0, 3.0]]))[0]
    np.testing.assert_allclose(nothing, 128 / 255)
    assert positive[0] > 2 * positive[2]
    assert negative[2] > 2 * negative[0]
    # Equal strengths of either sign cover alike: only the hue differs.
    half = overlaid(image, np.array([[-1.5, 3.0, 1.5]]))[0]
    assert np.abs(half[0] - 128 / 255).max() == pytest.approx(
        np.abs(half[2] - 128 / 255).max(), abs=0.15
    )


def test_a_map_of_zeros_covers_nothing() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    found = overlaid(image, np.zeros((2, 2)))
    np.testing.assert_allclose(found, (image @ [0.299, 0.587, 0.114] / 255)[..., None].repeat(3, 2))


def test_the_grid_draws_overlays_in_place_of_maps() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    maps = {"active": rng.random((2, 4, 4))}
    plain, laid = (example_grid(images, maps, ["a", "b"], overlay=asked) for asked in (False, True))
    assert plain.axes[1].images[0].get_array().shape == (4, 4)
    np.testing.assert_allclose(
        laid.axes[1].images[0].get_array(), overlaid(images[0], maps["active"][0])
    )
    assert len(plain.axes) == len(laid.axes)
