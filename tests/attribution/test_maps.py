"""One entry for both kinds of source: how they are told apart, targets, and infinite numbers."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.sources import reads_layers, takes_targets
from saliency_lab.attribution.core.views import VIEWS, views
from saliency_lab.attribution.maps import NonFiniteError, maps, require_finite, view_names
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.integrated_gradients import integrated_gradients
from saliency_lab.attribution.methods.kernel_shap import kernel_shap
from saliency_lab.attribution.methods.lime import lime
from saliency_lab.attribution.methods.occlusion import occlusion
from saliency_lab.attribution.methods.rise import rise
from saliency_lab.attribution.methods.smoothgrad import smoothgrad, smoothgrad_squared
from saliency_lab.errors import UserError


def single(
    model: nn.Module, images: Tensor, targets: Tensor, *, scale: float = 1.0, generator: object
) -> Tensor:
    """A source of one map per target: the image's red channel times the target's number."""
    return images[:, 0] * targets[:, None, None] * scale


class Scaled(nn.Module):
    """Logits that blow up for an image whose first value is above 1."""

    def __init__(self, factor: float = float("nan")) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 4)
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        factors = torch.where(images[:, :1, 0, 0] > 1, self.factor, 1.0)
        return self.linear(images.flatten(1)) * factors


def test_class_field_sources_go_through_views() -> None:
    model, images = Scaled(), torch.rand(3, 3, 4, 4)
    found = maps(model, images, gradient, VIEWS)
    predicted = model(images).argmax(1)
    expected = views(gradient(model, images), predicted, VIEWS)
    assert torch.equal(found.targets, predicted)
    for name in VIEWS:
        torch.testing.assert_close(found.maps[name], expected[name])
    assert found.logits is not None
    torch.testing.assert_close(found.logits, model(images).detach())
    assert found.finite.all()


def test_map_sources_have_original_only() -> None:
    model, images = Scaled(), torch.rand(3, 3, 4, 4)
    source = functools.partial(single, scale=2.0)
    assert takes_targets(source)
    assert not takes_targets(gradient)
    found = maps(model, images, source, targets=torch.tensor([1, 2, 3]))
    torch.testing.assert_close(
        found.maps["original"], images[:, 0] * torch.tensor([2.0, 4, 6])[:, None, None]
    )
    with pytest.raises(UserError, match=r"original for the method single.*got 'active'"):
        maps(model, images, source, ["original", "active"])


def test_sources_that_read_layers_are_told_apart() -> None:
    assert not reads_layers(gradient)
    assert not reads_layers(functools.partial(gradient, generator=None))
    assert reads_layers(single)


def test_completeness_is_of_the_targets_where_it_is_claimed() -> None:
    model, images = Scaled().double(), torch.rand(3, 3, 4, 4, dtype=torch.float64)
    targets = torch.tensor([3, 0, 2])
    for names in (VIEWS, ["active"]):
        found = maps(model, images, integrated_gradients, names, targets).completeness
        assert found is not None
        fall = model(images) - model(torch.zeros_like(images))
        expected = fall.gather(1, targets[:, None])[:, 0].detach()
        torch.testing.assert_close(found.change, expected)
        torch.testing.assert_close(found.total, expected)  # the model is linear along the path
    one = functools.partial(integrated_gradients, baseline="white", steps=1)
    whole = maps(nn.Sequential(model, nn.Softplus()), images, one, targets=targets).completeness
    assert whole is not None
    assert (whole.total - whole.change).abs().min() > 0
    assert maps(model, images, gradient, VIEWS).completeness is None
    assert maps(model, images, smoothgrad, ["original"]).completeness is None


def test_map_sources_explain_the_prediction_by_default() -> None:
    model, images = Scaled().train(), torch.rand(3, 3, 4, 4)
    found = maps(model, images, single)
    assert torch.equal(found.targets, model(images).argmax(1))
    assert model.training


def test_all_is_what_the_source_has() -> None:
    assert view_names(gradient, "all") == VIEWS
    assert view_names(single, "all") == ("original",)
    with pytest.raises(UserError, match="Did you mean 'active'"):
        view_names(gradient, "actve")
    for names in ((), ("active", "active")):
        with pytest.raises(UserError, match="none of them twice"):
            view_names(gradient, names)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
@pytest.mark.parametrize("names", [["original"], ["active"]])
def test_only_the_bad_image_is_named(factor: float, names: list[str]) -> None:
    images = torch.rand(3, 3, 4, 4)
    images[1, 0, 0, 0] = 2.0
    found = maps(Scaled(factor), images, gradient, names)
    assert found.finite.tolist() == [True, False, True]
    with pytest.raises(NonFiniteError, match="NaN or infinity for b") as caught:
        require_finite(found.finite, ["a", "b", "c"])
    assert caught.value.sample_ids == ("b",)
    require_finite(found.finite[[0, 2]], ["a", "c"])


def test_a_rival_without_finite_gradient_is_found_out() -> None:
    class RivalIsBad:
        """Finite logits; class 1's attribution of image 1 is infinite at one pixel."""

        logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])

        def of(self, classes: Tensor) -> Tensor:
            found = torch.ones(2, 3, 4, 4)
            found[1, 0, 0, 0] = torch.where(classes[1] == 1, torch.inf, 1.0)
            return found

    def source(model: nn.Module, images: Tensor, *, generator: object) -> RivalIsBad:
        return RivalIsBad()

    model, images = Scaled(), torch.rand(2, 3, 4, 4)
    assert maps(model, images, source, ["original"]).finite.tolist() == [True, True]
    assert maps(model, images, source, ["active"]).finite.tolist() == [True, False]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1]), r"3 whole numbers"),
        (torch.tensor([0.0, 1.0, 2.0]), r"float32"),
        (torch.tensor([0, 1, 4]), r"\[0, 4\), but got \[0, 1, 4\]"),
        (torch.tensor([0, -1, 2]), r"\[0, 4\)"),
    ],
)
def test_targets_are_checked(targets: Tensor, message: str) -> None:
    for source in (gradient, single):
        with pytest.raises(UserError, match=message):
            maps(Scaled(), torch.rand(3, 3, 4, 4), source, targets=targets)


def test_sums_over_copies_are_not_made_in_low_precision() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    low = torch.rand(2, 3, 8, 8).bfloat16()
    for source in (integrated_gradients, occlusion, smoothgrad_squared, rise):
        found, expected = (maps(model, images, source).maps["original"] for images in
                           (low, low.float()))  # fmt: skip
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("source", [lime, kernel_shap])
@pytest.mark.parametrize("bad", ["pixel", "logits"])
def test_sources_that_fit_a_model_name_the_bad_image_too(source: object, bad: str) -> None:
    images = torch.rand(2, 3, 12, 12)

    class Sometimes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = images.mean((2, 3))
            return torch.where(logits[:, :1] > 0.9, torch.nan, logits)

    images[1] = 0.99
    if bad == "pixel":
        images[1], images[1, 0, 3, 4] = 0.2, torch.nan
    found = maps(Sometimes(), images, functools.partial(source, samples=40, segments=6))
    assert found.finite.tolist() == [True, False]
