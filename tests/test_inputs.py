"""What the Python face takes, what it refuses, and what it says then."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saliency_lab as sl
from saliency_lab.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).eval()


def _explained(model: object, images: object, **more: object) -> Tensor:
    return sl.explain(model, images, "active", **more)["active"]  # type: ignore[arg-type]


def _deleted(model: object, images: object, **more: object) -> Tensor:
    maps = torch.rand(len(images), 8, 6)  # type: ignore[arg-type]
    return sl.deletion_curve(model, images, maps, **more)  # type: ignore[arg-type]


BOTH = pytest.mark.parametrize("use", [_explained, _deleted])
Use = Callable[..., Tensor]


@BOTH
@pytest.mark.parametrize(
    ("scale", "shift", "found"), [(255, 0, "got 0 to 255"), (4, -2, "got -2 to 2")]
)
def test_pixels_outside_the_unit_range_are_refused(use: Use, scale, shift, found) -> None:
    images = torch.rand(2, 3, 8, 6)
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    with pytest.raises(UserError, match=r"pixels in \[0, 1\], but got") as caught:
        use(_net(), images * scale + shift)
    text = str(caught.value)
    assert found in text
    assert "normalized(model, mean, std)" in text
    assert "pixel_range=" in text


@BOTH
def test_another_range_can_be_meant(use: Use) -> None:
    images = torch.rand(2, 3, 8, 6) * 4 - 2
    assert len(use(_net(), images, pixel_range=(-2, 2))) == 2
    assert len(use(_net(), images, pixel_range=None)) == 2
    with pytest.raises(UserError, match=r"pixels in \[-1, 2\]"):
        use(_net(), images, pixel_range=(-1, 2))
    with pytest.raises(UserError, match=r"`pixel_range` to be \(low, high\)"):
        use(_net(), images, pixel_range=(1, 0))


class _Bytes(nn.Module):
    """The same classifier for pixels from 0 to 255."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images / 255)


@pytest.mark.parametrize("fill", ["black", "white", "mean", "blur", "shift+0.1", "noise"])
def test_black_and_white_are_the_ends_of_the_range(fill: str) -> None:
    net, images = _net().double(), torch.rand(6, 3, 8, 6, dtype=torch.float64)
    maps = torch.rand(6, 8, 6)
    curves = [
        sl.deletion_curve(
            model, pixels, maps, fill, "standard",
            generator=sl.SampleGenerator(0, range(6)), pixel_range=(0, high),
        )
        for model, pixels, high in ((net, images, 1), (_Bytes(net), images * 255, 255))
    ]  # fmt: skip
    assert torch.equal(*curves)


def test_a_normalised_model_is_the_model_of_normalised_images() -> None:
    net, images = _net(), torch.rand(2, 3, 8, 6)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    model = sl.normalized(net, MEAN, STD)
    torch.testing.assert_close(model(images), net((images - mean) / std))
    assert model.model is net
    targets = torch.tensor([1, 2])
    # Chain rule: the slope per pixel is that per normalised value over std.
    inner = sl.gradient(net, (images - mean) / std).of(targets) / std
    torch.testing.assert_close(sl.gradient(model, images).of(targets), inner)
    assert not net.training
    assert not model.training


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (-1,))])
def test_a_mean_and_std_that_do_not_fit_are_refused(mean, std) -> None:
    with pytest.raises(UserError, match="`std`"):
        sl.normalized(_net(), mean, std)


def test_a_normalised_model_keeps_dtype() -> None:
    assert sl.normalized(_net().double(), MEAN, STD)(torch.rand(1, 3, 8, 6).double()).dtype == (
        torch.float64
    )


@BOTH
def test_arrays_are_taken_as_tensors(use: Use) -> None:
    images = torch.rand(2, 3, 8, 6)
    torch.manual_seed(1)
    expected = use(_net(), images)
    torch.manual_seed(1)
    assert torch.equal(use(_net(), images.numpy()), expected)


def test_images_that_are_not_finite_are_named() -> None:
    images = torch.rand(3, 3, 8, 6)
    images[1, 2, 3, 4] = torch.nan
    with pytest.raises(UserError, match="infinity for 1"):
        _explained(_net(), images)
    with pytest.raises(UserError, match=r"infinity for images \[1\]"):
        _deleted(_net(), images)


def test_maps_may_be_arrays_and_must_be_finite() -> None:
    net, images, maps = _net(), torch.rand(3, 3, 8, 6), torch.rand(3, 8, 6)
    expected = sl.deletion_curve(net, images, maps)
    assert torch.equal(sl.deletion_curve(net, images, maps.numpy()), expected)  # type: ignore[arg-type]
    for bad in (torch.nan, torch.inf):
        maps[1, 2, 3] = bad
        with pytest.raises(UserError, match=r"`maps` to be finite.* in maps \[1\]"):
            sl.deletion_curve(net, images, maps)
    with pytest.raises(UserError, match=r"`maps` to be a tensor or NumPy array.*list"):
        sl.deletion_curve(net, images, maps.tolist())


@BOTH
@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        (np.zeros((2, 8, 6, 3), dtype=np.uint8), r"uint8 \(channels come second.*divided by 255\)"),
        (np.zeros((2, 3, 8, 6), dtype=np.uint8), r"uint8 \(bytes are divided by 255\)"),
        (torch.zeros(3, 8, 6), r"\(3, 8, 6\).*images\[None\]"),
        (torch.zeros(0, 3, 8, 6), r"at least one image, but got \(0, 3, 8, 6\)"),
        ([[0.0]], "tensor or NumPy array.*got list"),
        (torch.zeros(2, 1, 8, 6), "`model` to take images of 1×8×6, but it says: .*channels"),
    ],
)
def test_what_are_no_images_for_the_model_is_said_in_one_line(use: Use, images, pattern) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        use(_net(), images)
    assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.parametrize("model", [lambda images: images.mean((2, 3)), _net().forward, "resnet18"])
def test_what_is_no_module_is_refused(use: Use, model: object) -> None:
    with pytest.raises(UserError, match=r"`model` to be a torch\.nn\.Module.*forward method"):
        use(model, torch.rand(1, 3, 8, 6))


def test_a_fault_inside_a_method_is_not_taken_for_the_models() -> None:
    def broken(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError("a fault of the method")

    with pytest.raises(ZeroDivisionError):
        sl.explain(_net(), torch.rand(1, 3, 8, 6), broken)


def test_a_model_of_one_channel() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
    images = torch.rand(2, 1, 8, 6)
    maps = sl.explain(net, images, "paper")
    assert all(one.shape == (2, 8, 6) for one in maps.values())
    assert sl.deletion_curve(net, images, maps["active"]).shape == (2, len(sl.PAPER_FRACTIONS))
