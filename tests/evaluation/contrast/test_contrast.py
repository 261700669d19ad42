"""Maps of two networks on the same images, against closed forms and slow sums."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from saliency_lab.attribution.methods.controls import random_map, sobel
from saliency_lab.attribution.methods.degraded import degraded
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.cifar10 import Cifar10
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.contrast import evaluator as module
from saliency_lab.evaluation.contrast.evaluator import Contrast
from saliency_lab.evaluation.localisation.scores import energy_inside
from saliency_lab.inference.engine import Engine
from saliency_lab.models.checkpoint import load_classifier

IMAGES, SIDE = 6, 32
OBJECT = (slice(4, 12), slice(10, 26))
SHARE = 8 * 16 / SIDE**2


class _Boxed(Shapes):
    """Every image's mask is the same box."""

    def masks(self, split, indices):
        found = np.zeros((len(indices), SIDE, SIDE), dtype=bool)
        found[:, *OBJECT] = True
        return found


class _Linear(nn.Module):
    """Class 1 where these pixels, weighed alike, are bright; class 0 where they are black."""

    def __init__(self, where: str) -> None:
        super().__init__()
        inside = torch.zeros(SIDE, SIDE)
        inside[OBJECT] = 1
        weights = {"object": inside, "scene": 1 - inside, "everywhere": torch.ones(SIDE, SIDE)}
        self.register_buffer("weights", weights[where])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x * self.weights).sum((1, 2, 3))
        return torch.stack([torch.full_like(bright, 1e-3), bright], 1)


def measured(monkeypatch, own: str, other: str, source=gradient) -> tuple[Contrast, pd.DataFrame]:
    images = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) + 0.1
    index = torch.arange(IMAGES)
    batch = Batch(images, index, index, [f"image {n}" for n in range(IMAGES)])
    second = SimpleNamespace(network=_Linear(other).eval())
    monkeypatch.setattr(module, "other_classifier", lambda *_: second)
    prepared = Engine().prepare(_Linear(own).eval(), images)
    data = _Boxed(train_images=10, test_images=10)
    context = Context(prepared, Method("any", source, ("original",)), data, "test", 5)
    evaluator = Contrast(other="there", fill="black")
    evaluator.check(context, "contrast")
    found = found_maps(context.maps_of(images, batch.ids))
    rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
    return evaluator, rows


@pytest.mark.parametrize(
    ("own", "other", "inside", "inside_other"),
    [
        ("object", "scene", 1, 0),
        ("scene", "object", 0, 1),
        ("object", "everywhere", 1, SHARE),
        ("everywhere", "scene", SHARE, 0),
        ("everywhere", "everywhere", SHARE, SHARE),
    ],
)
def test_networks_that_look_at_known_pixels_only(monkeypatch, own, other, inside, inside_other):
    evaluator, rows = measured(monkeypatch, own, other)
    np.testing.assert_allclose(rows["energy_inside"], inside, atol=1e-6)
    np.testing.assert_allclose(rows["energy_inside_other"], inside_other, atol=1e-6)
    np.testing.assert_allclose(rows["contrast"], inside - inside_other, atol=1e-6)
    np.testing.assert_allclose(rows["mask_share"], SHARE)
    # What is everywhere stays bright where the object is covered.
    assert set(rows["flips"]) == {own == "object"}
    assert set(rows["flips_other"]) == {other == "object"}
    facts = evaluator.facts(rows, rows)
    assert facts["used_more"] is ((own, other) in {("object", "scene"), ("object", "everywhere")})
    assert facts["flips_more"]["value"] == (own == "object") - (other == "object")
    # Of one image nothing is known about others.
    assert evaluator.facts(rows[:1], rows[:1])["used_more"] is False
    (higher,) = facts["higher"]
    assert higher["value"] == (inside > inside_other)
    assert 0 <= higher["low"] < higher["high"] <= 1
    assert facts["random_map"] == {"contrast": 0, "energy_inside": pytest.approx(SHARE)}


@pytest.mark.parametrize("source", [random_map, sobel])
def test_a_map_that_does_not_ask_the_network_gets_nothing(monkeypatch, source):
    evaluator, rows = measured(monkeypatch, "object", "scene", source)
    assert (rows["contrast"] == 0).all()
    assert (rows["energy_inside"] > 0).all()
    assert evaluator.facts(rows, rows)["higher"][0]["value"] == 0


def test_more_noise_is_less_contrast(monkeypatch):
    means = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        source = partial(degraded, base=gradient, share=share)
        means.append(measured(monkeypatch, "object", "scene", source)[1]["contrast"].mean())
    assert means[0] == pytest.approx(1)
    assert (np.diff(means) < 0).all()
    assert means[-1] == pytest.approx(0, abs=1e-6)


def test_images_without_a_map_of_the_other_network_have_no_contrast(monkeypatch):
    def source(model, images, targets, *, generator=None):
        values = torch.ones(len(images), SIDE, SIDE)
        if bool(model.weights[0, 0] == 1):  # the other one, which looks at the scene
            values[2] = torch.nan
        return values

    evaluator, rows = measured(monkeypatch, "object", "scene", source)
    assert rows["contrast"].isna().tolist() == [n == 2 for n in range(IMAGES)]
    assert rows["energy_inside"].notna().all()
    assert evaluator.facts(rows, rows)["higher"][0]["value"] == 0


def test_energy_inside_by_a_slow_sum():
    stream = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 6, 7, generator=stream)
    maps[3] = -maps[3].abs()
    masks = torch.rand(5, 6, 7, generator=stream) < 0.3
    masks[4] = False
    expected = []
    for values, mask in zip(maps.tolist(), masks.tolist(), strict=True):
        cells = [
            (max(value, 0.0), inside)
            for line, marks in zip(values, mask, strict=True)
            for value, inside in zip(line, marks, strict=True)
        ]
        total = sum(value for value, _ in cells)
        part = sum(value for value, inside in cells if inside)
        expected.append(part / total if total else sum(i for _, i in cells) / len(cells))
    np.testing.assert_allclose(energy_inside(maps, masks), expected, atol=1e-12)
    assert expected[4] == 0


def run(data: Shapes, other: object) -> None:
    images = torch.rand(2, 3, SIDE, SIDE)
    model = Engine().prepare(_Linear("object").eval(), images)
    context = Context(model, Method("any", gradient, ("original",)), data, "test", 1)
    Contrast(other=None if other is None else str(other)).check(context, "contrast")


def test_the_other_network_is_read_from_its_training(classifier_file: Path, tmp_path: Path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").symlink_to(classifier_file)
    stream = torch.Generator().manual_seed(4)
    images, index = torch.rand(3, 3, SIDE, SIDE, generator=stream), torch.arange(3)
    model = Engine().prepare(_Linear("object").eval(), images)
    data = _Boxed(train_images=10, test_images=10)
    context = Context(model, Method("any", gradient, ("original",)), data, "test", 1)
    batch = Batch(images, index, index, ["a", "b", "c"])
    found = found_maps(context.maps_of(images, batch.ids))
    (part,) = Contrast(other=str(folder)).measure(context, batch, found)
    network = load_classifier(classifier_file).network
    # Its own ten classes: the one that it predicts itself, not the run's.
    predicted = network(images).argmax(1)
    assert (predicted != 1).any()
    field = gradient(network, images)
    expected = field.of(predicted).abs().amax(1).double()
    inside = (expected[:, *OBJECT].sum((1, 2)) / expected.sum((1, 2))).detach()
    np.testing.assert_allclose(part.values["energy_inside_other"], inside, atol=1e-6)


def test_what_is_missing_is_said(classifier_file: Path, tmp_path: Path):
    data = _Boxed(train_images=10, test_images=10)
    with pytest.raises(UserError, match=r"contrast\.other` .*classes_are=scene"):
        run(data, None)
    with pytest.raises(UserError, match=r"evaluator\.contrast\.other"):
        run(data, tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="masks for evaluator=contrast"):
        run(Cifar10(), classifier_file)  # type: ignore[arg-type]

    class Small(_Boxed):
        input_shape = (3, 16, 16)

    with pytest.raises(UserError, match=r"images of \(3, 16, 16\), but .* takes \(3, 32, 32\)"):
        run(Small(train_images=10, test_images=10), classifier_file)
    with pytest.raises(UserError, match="fill"):
        Contrast(fill="pink")
