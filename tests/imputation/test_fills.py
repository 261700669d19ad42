"""Fills against their definitions; noise belongs to the image, not to the batch."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.imputation.fills import checked_fill, fill_images
from saliency_lab.imputation.linear import road


def test_black_white_mean_and_shift() -> None:
    images = torch.rand(2, 3, 4, 5)
    assert not fill_images(images, "black").any()
    assert bool((fill_images(images, "white") == 1).all())
    mean = fill_images(images, "mean")
    for row in range(2):
        for channel in range(3):
            value = sum(images[row, channel].flatten().tolist()) / 20
            assert mean[row, channel].flatten().tolist() == pytest.approx([value] * 20)
    lifted, lowered = fill_images(images, "shift+0.1"), fill_images(images, "shift-.25")
    for own, up, down in zip(images.flatten(), lifted.flatten(), lowered.flatten(), strict=True):
        assert up.item() == pytest.approx(min(own.item() + 0.1, 1))
        assert down.item() == pytest.approx(max(own.item() - 0.25, 0))


def test_fills_fit_the_images_and_leave_them_alone() -> None:
    images = torch.rand(2, 1, 30, 20, dtype=torch.float64)
    kept = images.clone()
    for fill in ("black", "white", "mean", "blur", "noise", "shift+0.1"):
        found = fill_images(images, fill, SampleGenerator(0, [0, 1]))
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert 0 <= found.min() <= found.max() <= 1
    torch.testing.assert_close(images, kept, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "sigma", "radius"),
    [
        ((224, 224), 10.0, 30),
        ((64, 90), 20 / 7, 9),
        ((90, 64), 20 / 7, 9),
        ((4, 4), 5 / 28, 1),
        ((1, 1), 5 / 112, 1),
    ],
)
def test_blur_is_scipys_gaussian(size: tuple[int, int], sigma: float, radius: int) -> None:
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    found = fill_images(image, "blur")
    for channel in range(3):
        expected = gaussian_filter(image[0, channel].numpy(), sigma, mode="nearest", radius=radius)
        torch.testing.assert_close(found[0, channel], torch.from_numpy(expected))


@pytest.mark.parametrize("fill", ["blur", "mean", "road"])
def test_an_enclosing_autocast_has_no_say(fill: str) -> None:
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    masks = images.mean(1) > 0.5

    def filled() -> torch.Tensor:
        return road(images, masks) if fill == "road" else fill_images(images, fill)

    alone = filled()
    with torch.autocast("cpu", torch.bfloat16):
        inside = filled()
    assert inside.dtype == alone.dtype == torch.float32
    assert inside.equal(alone)


def test_noise_belongs_to_the_image() -> None:
    images = torch.rand(3, 3, 4, 4)
    together = fill_images(images, "noise", SampleGenerator(7, ["a", "b", "c"]))
    alone = fill_images(images[1:2], "noise", SampleGenerator(7, ["b"]))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])
    other = fill_images(images[1:2], "noise", SampleGenerator(8, ["b"]))
    assert not torch.equal(other, alone)
    # Every number of every image is its own.
    assert together.unique().numel() == together.numel() == 3 * 3 * 4 * 4
    large = fill_images(torch.rand(1, 3, 64, 64), "noise", SampleGenerator(7, ["a"]))
    assert large.mean().item() == pytest.approx(0.5, abs=0.02)
    assert large.std().item() == pytest.approx(12**-0.5, abs=0.02)


def test_black_and_white_take_no_memory() -> None:
    for fill in ("black", "white"):
        assert fill_images(torch.rand(5, 3, 8, 8), fill).untyped_storage().nbytes() == 4


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"`fill` to be one of black.*Did you mean 'white'"):
        fill_images(torch.rand(1, 3, 2, 2), "wite")
    with pytest.raises(UserError, match="`generator`"):
        fill_images(torch.rand(1, 3, 2, 2), "noise")
    with pytest.raises(UserError, match="shift"):
        checked_fill("shift0.1")
    assert checked_fill("shift-0.02") == "shift-0.02"
    assert checked_fill("shift+1") == "shift+1"


@pytest.mark.parametrize("fill", ["shift+5", "shift-1.01", "shift+0", "shift-0.00"])
def test_a_shift_beyond_the_pixels_or_by_nothing_is_refused(fill: str) -> None:
    with pytest.raises(UserError, match=r"more than 0 and at most 1, but got 'shift"):
        checked_fill(fill)
