"""What draws itself in a notebook: maps as a grid, curves with their bands."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import saliency_lab as sl


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


@pytest.mark.parametrize("count", [1, 3, 11])
def test_maps_draw_themselves(count: int) -> None:
    maps = sl.explain(network(), torch.rand(count, 3, 8, 8), ("original", "active"))
    assert isinstance(maps, dict)
    assert list(maps) == ["original", "active"]
    assert repr(maps) == f"Maps of {count} images (8×8): original, active"
    picture = Image.open(io.BytesIO(maps._repr_png_()))
    other = sl.explain(network(), torch.rand(count, 3, 8, 8), ("original",))
    # A column per map and a row per image, eight at most.
    assert picture.width > Image.open(io.BytesIO(other._repr_png_())).width
    assert picture.height == pytest.approx(72 * (0.35 + 1.18 * min(count, 8)), abs=1)


def test_one_channel_and_another_range() -> None:
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.rand(2, 1, 8, 8) * 4 - 2
    maps = sl.explain(grey, images, "active", pixel_range=(-2.0, 2.0))
    assert maps._repr_png_().startswith(b"\x89PNG")
    assert torch.equal(maps.images, images)


def test_curves_are_means_with_bands() -> None:
    rng = np.random.default_rng(0)
    agree = torch.from_numpy(rng.random((50, 13)) < np.linspace(1, 0.2, 13))
    found = sl.curves({"active": agree, "smoothgrad/positive": ~agree}, fill="black", resamples=200)
    points = found.points.set_index(["method", "view"])
    one = points.loc[("gradient", "active")]
    np.testing.assert_allclose(one["allegiance"], agree.double().mean(0))
    assert (one["low"] <= one["allegiance"]).all()
    assert (one["allegiance"] <= one["high"]).all()
    assert (one["high"] - one["low"]).max() > 0.1
    assert list(one["fraction"]) == [0, 0.03, 0.05, 0.07, *(step / 10 for step in range(1, 10))]
    assert ("smoothgrad", "positive") in points.index
    area = found.areas.set_index("map")["area"]["active"]
    steps = np.asarray(one["fraction"])
    assert area == pytest.approx(np.trapezoid(agree.double().mean(0).numpy(), steps))
    assert found._repr_png_().startswith(b"\x89PNG")


def test_a_function_of_ones_own_is_its_own_method() -> None:
    agree = torch.ones(4, 21)
    found = sl.curves({"mine": agree})
    assert list(found.points["method"].unique()) == ["mine"]
    assert found.areas["area"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("agreements", "told"),
    [
        ({}, "one shape"),
        ({"a": torch.ones(3, 13), "b": torch.ones(4, 13)}, "one shape"),
        ({"a": torch.ones(13)}, "one shape"),
        ({"a": torch.ones(3, 7)}, "`fractions` for curves of 7 points"),
        ({"a": [[1.0] * 13]}, r"`agreements\['a'\]` to be a tensor or NumPy array.*got list"),
    ],
)
def test_what_does_not_fit(agreements, told: str) -> None:
    with pytest.raises(sl.UserError, match=told):
        sl.curves(agreements)


def test_curves_take_arrays_and_refuse_other_fractions() -> None:
    agree = torch.rand(4, 3).numpy()
    found = sl.curves({"a": agree}, fractions=np.array([0, 0.5, 1]))
    np.testing.assert_allclose(found.points["allegiance"], agree.mean(0), rtol=1e-6)
    for wrong, told in (([0, 1], "3, as many .* but got 2"), ([0, 1, 0.5], "strictly ascending")):
        with pytest.raises(sl.UserError, match=f"Expected `fractions` .*{told}"):
            sl.curves({"a": agree}, fractions=wrong)
