"""The face for notebooks: names, sharing, agreement with Hydra, imports, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

import saliency_lab as sl
from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.maps import NonFiniteError
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.config.location import config_directory
from saliency_lab.errors import UserError
from saliency_lab.explanation import method_names, named_method, source_function


class CountedNet(nn.Module):
    """A small classifier that counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        return self.net(images)


def noise_times_target(
    model: nn.Module, images: Tensor, targets: Tensor, *, generator: sl.SampleGenerator
) -> Tensor:
    return generator.uniform(*images.shape[2:]) * targets[:, None, None]


def test_the_three_lines_of_the_design() -> None:
    model, images = CountedNet(), torch.rand(2, 3, 8, 6)
    maps = sl.explain(model, images, methods=("original", "active"), targets=None)
    agree = sl.deletion_curve(model, images, maps["active"], fill="black")
    area = sl.area_under_curve(agree.float().mean(0), sl.PAPER_FRACTIONS)
    assert list(maps) == ["original", "active"]
    assert all(map_.shape == (2, 8, 6) and map_.dtype == torch.float32 for map_ in maps.values())
    assert agree.shape == (2, len(sl.PAPER_FRACTIONS))
    assert 0 <= area <= 0.9


def test_views_of_one_source_share_its_forward() -> None:
    model = CountedNet().train()
    maps = sl.explain(model, torch.rand(2, 3, 8, 6), ["inactive", "five_views", "gradient/active"])
    expected = ["inactive", "original", "positive", "negative", "active", "gradient/active"]
    assert list(maps) == expected
    assert torch.equal(maps["gradient/active"], maps["active"])
    assert model.forwards == 1
    assert model.training


def test_values_are_those_of_the_views() -> None:
    model, images = CountedNet(), torch.rand(2, 3, 8, 6)
    targets = torch.tensor([4, 0])
    expected = sl.views(sl.gradient(model, images), targets, VIEWS, channels="sum", competitors=2)
    found = sl.explain(model, images, "five_views", targets, channels="sum", competitors=2)
    for view in VIEWS:
        assert torch.equal(found[view], expected[view])


def test_a_function_is_a_method_too() -> None:
    model, images, targets = CountedNet(), torch.rand(3, 3, 8, 6), torch.tensor([1, 2, 3])
    found = sl.explain(model, images, [noise_times_target, "original"], targets)
    assert list(found) == ["noise_times_target", "original"]
    part = sl.explain(model, images[2:], noise_times_target, targets[2:], sample_ids=[2])
    assert torch.equal(part["noise_times_target"][0], found["noise_times_target"][2])
    other = sl.explain(model, images, noise_times_target, targets, seed=1)
    assert not torch.equal(other["noise_times_target"], found["noise_times_target"])


def test_every_source_of_the_configuration_can_be_named() -> None:
    assert len(method_names()) >= 27
    assert {"active", "five_views", "smoothgrad", "lime", "gradient"} <= set(method_names())
    for name in method_names():
        source, views = named_method(name)
        assert callable(source_function(source))
        assert set(views) <= set(VIEWS)


def test_shorthands_mean_the_same_to_hydra(tmp_path: Path) -> None:
    root = {"defaults": [{"view": "original"}, {"method": "gradient"}, "_self_"]}
    root["hydra"] = {"searchpath": [f"file://{config_directory()}"]}
    (tmp_path / "main.yaml").write_text(yaml.safe_dump(root))
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        for name in set(method_names()) - {"file"}:  # named by its user
            found = compose("main", [f"method={name}"])
            source, views = named_method(name)
            assert found.method.name == source
            assert list(found.view.names) == list(views)
        found = compose("main", ["method=active", "view=positive"])
        assert found.method.name == "gradient"
        assert list(found.view.names) == ["positive"]


def test_a_function_of_too_few_arguments_is_named_with_what_it_takes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))

    def brightness(images):
        return images.mean(1)

    with pytest.raises(UserError, match=r"but got brightness, which takes \(images\)"):
        sl.explain(model, torch.rand(2, 3, 4, 4), brightness)


class Cut(CountedNet):
    """A network that a gradient cannot pass."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


@pytest.mark.parametrize("method", ["original", "integrated_gradients", "lrp", "deeplift"])
def test_a_network_without_gradients_is_refused_and_not_explained_by_zeros(method: str) -> None:
    with pytest.raises(UserError, match="logits that can be differentiated"):
        sl.explain(Cut(), torch.rand(2, 3, 8, 6), method)

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.ones(len(images), 3)

    # One that says the same of every image has gradients of zero.
    assert not sl.explain(Constant(), torch.rand(2, 3, 8, 6), "original")["original"].any()


def test_one_target_for_all_images() -> None:
    model, images = CountedNet(), torch.rand(3, 3, 8, 6)
    expected = sl.explain(model, images, "active", torch.tensor([2, 2, 2]))["active"]
    assert torch.equal(sl.explain(model, images, "active", 2)["active"], expected)


def test_mistakes_are_named() -> None:
    model, images = CountedNet(), torch.rand(1, 3, 8, 6)
    with pytest.raises(UserError, match=r"`method` to be one of .*Did you mean 'active'"):
        sl.explain(model, images, "actve")
    with pytest.raises(UserError, match=r"`view.names` to be one of"):
        sl.explain(model, images, "gradient/actve")
    with pytest.raises(NonFiniteError, match="infinity for 1") as caught:
        sl.explain(model, torch.stack([images[0], images[0] * torch.nan]))
    assert caught.value.sample_ids == (1,)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, saliency_lab; assert 'torch' not in sys.modules; saliency_lab.explain"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        sl.nothing_of_the_kind  # noqa: B018


def test_every_public_name_exists() -> None:
    assert all(getattr(sl, name) is not None for name in sl.__all__)


def test_dir_shows_the_public_names_alone() -> None:
    assert {name for name in dir(sl) if not name.startswith("__")} == set(sl.__all__)


def _plain(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return images.mean(1) * (1 + targets[:, None, None])


def test_a_function_may_do_without_a_generator() -> None:
    model, images, targets = CountedNet(), torch.rand(2, 3, 8, 6), torch.tensor([1, 2])
    found = sl.explain(model, images, _plain, targets)["_plain"]
    assert torch.equal(found, _plain(model, images, targets))
    field = sl.explain(model, images, lambda model, images: sl.gradient(model, images), targets)
    assert torch.equal(
        field["<lambda>"], sl.explain(model, images, "original", targets)["original"]
    )


def test_a_base_of_smoothgrad_may_do_without_a_generator() -> None:
    def own(model: nn.Module, images: Tensor) -> object:
        return sl.gradient(model, images)

    model, images = CountedNet(), torch.rand(2, 3, 8, 6)
    targets = torch.tensor([1, 2])
    fields = [smoothgrad(model, images, base=base, samples=2) for base in (own, sl.gradient)]
    assert torch.equal(*(field.of(targets) for field in fields))


def test_functions_of_one_name_keep_a_place_each() -> None:
    model, images, targets = CountedNet(), torch.rand(1, 3, 8, 6), torch.tensor([1])
    zeros, ones = (
        lambda model, images, targets, value=value: torch.full((1, 8, 6), value)
        for value in (0.0, 1.0)
    )

    def active(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return torch.full((1, 8, 6), 2.0)

    found = sl.explain(model, images, [zeros, ones, zeros, active, "active"], targets)
    assert list(found) == ["<lambda>", "<lambda>-2", "active-2", "active"]
    assert [float(found[name].max()) for name in list(found)[:3]] == [0, 1, 2]
    assert torch.equal(found["active"], sl.explain(model, images, "active", targets)["active"])


@pytest.mark.parametrize(
    ("function", "pattern"),
    [
        (lambda model, images, targets: images, r"<lambda> to give one map.*\(2, 8, 6\).*3, 8, 6"),
        (lambda model, images, targets: None, "one map per image.*NoneType"),
        (lambda model, images: images.mean(1), "without `targets`"),
        (max, "max, which does not say what it takes"),
    ],
)
def test_a_function_that_gives_no_maps_is_refused(function: object, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        sl.explain(CountedNet(), torch.rand(2, 3, 8, 6), function)  # type: ignore[arg-type]


class _Wrapped(nn.Module):
    """A classifier whose logits lie inside something."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.wrap = CountedNet(), wrap

    def forward(self, images: Tensor) -> object:
        return self.wrap(self.net(images))


@pytest.mark.parametrize(
    "wrap", [lambda x: {"loss": None, "logits": x}, lambda x: SimpleNamespace(logits=x)]
)
def test_logits_inside_an_answer_are_taken(wrap: Callable[[Tensor], object]) -> None:
    images = torch.rand(2, 3, 8, 6)
    expected = sl.explain(CountedNet(), images)
    found = sl.explain(_Wrapped(wrap), images)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    curves = [
        sl.deletion_curve(m, images, expected["active"]) for m in (CountedNet(), _Wrapped(wrap))
    ]
    assert torch.equal(*curves)


@pytest.mark.parametrize(
    ("wrap", "got"),
    [(lambda x: (x, x), "tuple"), (lambda x: {"out": x}, "dict of out")],
)
def test_other_answers_are_refused_with_a_way_out(wrap, got: str) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(2, 3, 8, 6)
    for use in (
        lambda model: sl.explain(model, images),
        lambda model: sl.deletion_curve(model, images, images.mean(1)),
    ):
        with pytest.raises(UserError, match=rf"got {got}; put it into a module whose forward"):
            use(_Wrapped(wrap))


class _Normalising(nn.Module):
    """Normalises its input, in place or not, and classifies it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.in_place = in_place

    def forward(self, images: Tensor) -> Tensor:
        images = images.sub_(0.5).div_(0.25) if self.in_place else (images - 0.5) / 0.25
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


@pytest.mark.parametrize(
    "method",
    ["five_views", "smoothgrad", "integrated_gradients", "gradient_shap", "occlusion", "grad_cam"],
)
def test_a_model_that_works_in_place_changes_nobodys_images(method: str) -> None:
    model, same = (_Normalising(in_place).eval() for in_place in (True, False))
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    found = sl.explain(model, images, method)
    assert torch.equal(images, before)
    for view, expected in sl.explain(same, images, method).items():
        torch.testing.assert_close(found[view], expected)


def test_curves_and_logits_of_a_model_that_works_in_place() -> None:
    model, same = (_Normalising(in_place).eval() for in_place in (True, False))
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    before, maps = images.clone(), images.mean(1)
    for one in (model, sl.prepared(model, images)):
        curve = sl.deletion_curve(one, images, maps)
        assert torch.equal(images, before)
        assert torch.equal(curve, sl.deletion_curve(same, images, maps))
    torch.testing.assert_close(sl.prepared(model, images).logits(images), same(images))
    assert torch.equal(images, before)
