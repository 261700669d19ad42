"""What the Python face takes, what it refuses, and what it says then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        *[((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (-1,))],
        *[(0.5, 0.5), (torch.tensor(0.5), (0.5,)), (("a",), (0.5,)), (None, (0.5,)), ((), (0.5,))],
    ],
)
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


# Every public measure of a model and of maps, by the arguments (model, images, maps).
OF_MODELS: dict[str, Callable[..., Any]] = {
    "relevance_gain": lambda *given, **more: sl.relevance_gain(*given, **more).gain,
    "mu_fidelity": lambda *given, **more: sl.mu_fidelity(*given, samples=20, **more),
    "infidelity": lambda *given, **more: sl.infidelity(*given, samples=20, **more).residual,
    "sensitivity_n": lambda *given, **more: sl.sensitivity_n(*given, samples=20, **more),
    "prediction_gaps": lambda *given, **more: sl.prediction_gaps(*given, samples=5, **more).pgi,
    "relative_sensitivity": lambda model, images, maps, **more: sl.relative_sensitivity(
        model, images, maps > 0.5, **more
    ),
}
OF_MAPS: dict[str, Callable[..., Any]] = {
    "localisation": lambda maps: sl.localisation(maps, maps > 0.5)["roc_auc"],
    "sparseness": sl.sparseness,
    "entropy": sl.entropy,
    "effective_area": sl.effective_area,
    "important_pixels": sl.important_pixels,
    "relative_complexity": lambda maps: sl.relative_complexity(maps, maps**2, level=0.1),
    "convex_hulls": lambda maps: sl.convex_hulls(maps > 0.9).filled,
}
OF_IMAGES: dict[str, Callable[..., Any]] = {
    **{
        f"fill_images, {fill}": lambda images, fill=fill: sl.fill_images(images, fill)
        for fill in ("white", "mean", "blur", "shift+0.1")
    },
    "road": lambda images: sl.road(images, images[:, 0] > 0.5),
    "max_sensitivity": lambda images: sl.max_sensitivity(lambda x: {"a": x.sum(1)}, images)["a"],
}


def _drawn() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 8, 6, generator=stream), torch.rand(3, 8, 6, generator=stream)


@pytest.mark.parametrize("name", OF_MODELS)
def test_measures_of_models_check_what_they_are_given(name: str) -> None:
    use, net, (images, maps) = OF_MODELS[name], _net(), _drawn()
    arrays = images.numpy()[..., ::-1], maps.numpy()[..., ::-1]
    same = images.flip(3), maps.flip(2)
    found = use(net, *same)
    assert torch.equal(use(net, *arrays), found)
    for one in (1, np.int64(1), torch.tensor(1), [1, 1, 1]):
        assert torch.equal(
            use(net, *same, targets=one), use(net, *same, targets=torch.ones(3).long())
        )
    for wrong in (images * 255, images * 4 - 2):
        with pytest.raises(UserError, match=r"pixels in \[0, 1\], but got.* in \[0, 1\]\.$"):
            use(net, wrong, maps)
    with pytest.raises(UserError, match="bytes are divided by 255"):
        use(net, (images * 255).byte(), maps)
    bad = images.clone()
    bad[1] = torch.nan
    with pytest.raises(UserError, match=r"infinity for images \[1\]"):
        use(net, bad, maps)
    with pytest.raises(UserError, match="`model` to take images of 1×8×6, but it says"):
        use(net, images[:, :1], maps)
    with pytest.raises(UserError, match=r"`model` to be a torch\.nn\.Module"):
        use(lambda x: net(x), images, maps)
    for targets, got in (
        ([1, 2], r"\(2,\)"),
        ([1.0, 2, 3], "float32"),
        ("cat", "str"),
        (5, "5, 5"),
    ):
        with pytest.raises(UserError, match=f"Expected `targets` .*but got .*{got}"):
            use(net, images, maps, targets=targets)


@pytest.mark.parametrize("name", [*OF_MAPS, *list(OF_MODELS)[:5]])
def test_measures_of_maps_check_the_maps(name: str) -> None:
    images, maps = _drawn()
    use = OF_MAPS.get(name) or (lambda maps: OF_MODELS[name](_net(), images, maps))
    assert torch.equal(use(maps.numpy()[:, ::-1]), use(maps.flip(1)))
    with pytest.raises(UserError, match=r"Expected `ma(p|sk)s`"):
        use(maps[0])
    if name == "convex_hulls":  # what a NaN is above is for who makes the masks to say
        return
    maps[1, 2, 3] = torch.nan
    with pytest.raises(UserError, match=r"`maps` to be finite.* in maps \[1\]"):
        use(maps)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_measures_of_images_check_the_images(name: str) -> None:
    use, (images, _) = OF_IMAGES[name], _drawn()
    assert torch.equal(use(images.numpy()[:, :, ::-1]), use(images.flip(2)))
    with pytest.raises(UserError, match="bytes are divided by 255"):
        use((images * 255).byte())
    if name.startswith("fill_images"):
        with pytest.raises(UserError, match=r"pixels in \[0, 1\], but got"):
            use(images * 255)


def test_masks_are_arrays_or_bool_tensors() -> None:
    images, maps = _drawn()
    masks = maps > 0.5
    for name, use in (
        ("localisation", lambda masks: sl.localisation(maps, masks)["top_k"]),
        ("relative_sensitivity", lambda masks: sl.relative_sensitivity(_net(), images, masks)),
        ("road", lambda masks: sl.road(images, masks)),
    ):
        assert torch.equal(use(masks.numpy()), use(masks)), name
        with pytest.raises(UserError, match=r"`masks` to be a tensor .* got list"):
            use(masks.tolist())


@pytest.mark.parametrize("backward", [(0, 1, -1), (0, -1, 1), (-1, 1, 1)])
@BOTH
def test_mirrored_arrays_are_taken(use: Use, backward: tuple[int, ...]) -> None:
    turned = tuple(slice(None, None, step or 1) for step in (1, *backward))
    images = torch.rand(2, 3, 8, 6).numpy()[turned]
    torch.manual_seed(1)
    expected = use(_net(), torch.from_numpy(images.copy()))
    torch.manual_seed(1)
    assert torch.equal(use(_net(), images), expected)


def test_arrays_of_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"`images` to be a tensor .*but got an array of object"):
        _explained(_net(), np.empty((1, 3, 8, 6), dtype=object))


def test_one_class_for_all_images_is_any_whole_number() -> None:
    net, images = _net(), torch.rand(2, 3, 8, 6)
    expected = _explained(net, images, targets=torch.tensor([3, 3]))
    for one in (3, np.int64(3), torch.tensor(3), np.array(3), [3, 3], np.array([3, 3], "u1")):
        assert torch.equal(_explained(net, images, targets=one), expected)


def test_as_many_targets_and_ids_as_images() -> None:
    net, images = _net(), torch.rand(4, 3, 8, 6)
    for model in (net, sl.prepared(net, images)):
        for count in (3, 5):
            with pytest.raises(UserError, match=rf"`targets` to be 4 .* got \({count},\) of"):
                _explained(model, images, targets=list(range(count)))
        for ids in ("ab", range(7)):
            with pytest.raises(UserError, match=f"`sample_ids` .* 4 images, but got {len(ids)}"):
                _explained(model, images, sample_ids=ids)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_an_image_or_more(size: int) -> None:
    for use in (_deleted, sl.measure):
        with pytest.raises(UserError, match=f"`batch_size` to be 1 or more, but got {size}"):
            use(_net(), torch.rand(2, 3, 8, 6), batch_size=size)


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


def test_maps_of_a_batch_may_be_of_an_array() -> None:
    net, images = _net(), torch.rand(2, 3, 8, 6)
    expected = sl.maps(net, images, targets=torch.tensor([1, 1])).maps["original"]
    found = sl.maps(net, images.numpy(), targets=1).maps["original"]
    assert torch.equal(found, expected)
    with pytest.raises(UserError, match=r"`images` to be a tensor or NumPy array .*, but got list"):
        sl.maps(net, [images[0], images[1]])


@pytest.mark.parametrize("methods", [None, 3])
def test_methods_are_a_name_a_function_or_several(methods: object) -> None:
    with pytest.raises(UserError, match=f"Expected `methods` to be .*, but got {methods}"):
        sl.explain(_net(), torch.rand(1, 3, 8, 6), methods)


def test_a_part_of_a_competitor_is_refused() -> None:
    with pytest.raises(UserError, match=r"`view.competitors` .*, but got 2.5"):
        _explained(_net(), torch.rand(1, 3, 8, 6), competitors=2.5)


def test_a_seed_and_ids_of_any_whole_numbers_draw_the_same() -> None:
    net, images = _net(), torch.rand(2, 3, 8, 6)

    def drawn(**more: object) -> Tensor:
        return sl.explain(net, images, "random_map", **more)["random_map"]

    expected = drawn()
    for seed in (np.int64(42), torch.tensor(42)):
        assert torch.equal(drawn(seed=seed), expected)
    for ids in (np.arange(2), torch.arange(2), "01", [np.int64(0), "1"]):
        assert torch.equal(drawn(sample_ids=ids), expected)
    for wrong in (42.0, "42", None, True, np.float64(42)):
        with pytest.raises(UserError, match="Expected `seed` to be a whole number, but got"):
            drawn(seed=wrong)
    for among in ([0.0, 1.0], np.arange(2.0), torch.arange(2.0), [0, None]):
        with pytest.raises(UserError, match="`sample_ids` to be text or whole numbers, but got"):
            drawn(sample_ids=among)
    with pytest.raises(UserError, match="`sample_ids` to be one for each of 2 images, but got int"):
        drawn(sample_ids=2)
