from __future__ import annotations

import pytest
import torch
from torch import nn

from saliency_lab.attribution.methods.controls import random_map
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.cifar10 import Cifar10
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.localisation.evaluator import Localisation
from saliency_lab.evaluation.localisation.use import elsewhere, flips
from saliency_lab.inference.engine import Engine


class _Spot(nn.Module):
    """Class 0 where the sum of the four pixels in a corner exceeds that of the opposite ones."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x[:, :, :2, :2].sum((1, 2, 3)), x[:, :, -2:, -2:].sum((1, 2, 3))
        return torch.stack([first, second], 1)


def test_elsewhere_is_as_large_and_apart():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 1:4, 1:4] = True
    masks[1, :, :4] = True
    masks[2, :, :5] = True
    found = elsewhere(masks)
    assert not (found & masks).any()
    assert found.sum((1, 2)).tolist() == [9, 32, 24]


def test_covering_what_decides_flips_and_covering_elsewhere_does_not():
    images = torch.full((2, 3, 8, 8), 0.5)
    images[0, :, :2, :2] = 1
    images[1, :, -2:, -2:] = 1
    masks = images[:, 0] == 1
    black = torch.zeros_like(images)
    assert flips(_Spot(), images, masks, black).tolist() == [True, True]
    middle = torch.zeros_like(masks)
    middle[:, 3:5, 3:5] = True
    assert flips(_Spot(), images, middle, black).tolist() == [False, False]


class _Corners(Shapes):
    """Shapes whose evidence is the corner that _Spot looks at."""

    def masks(self, split, indices):
        found = super().masks(split, indices) & False
        found[:, :2, :2] = True
        return found


@pytest.fixture
def data(tmp_path):
    return _Corners(train_images=20, test_images=10, cache_dir=str(tmp_path))


def rows_of(data, source, views=("original",), **settings):
    images = torch.full((10, 3, 32, 32), 0.5)
    images[:, :, :2, :2] = 1
    split = data.split("test")
    batch = Batch(images, torch.zeros(10).long(), torch.arange(10), split.ids)
    prepared = Engine().prepare(_Spot(), images)
    context = Context(prepared, Method("any", source, views), data, "test", 42)
    evaluator = Localisation(**settings)
    evaluator.check(context, "localisation")
    found = found_maps(context.maps_of(images, batch.ids))
    return evaluator, measured_rows(
        evaluator, batch, "any", evaluator.measure(context, batch, found)
    )


def test_a_model_that_uses_the_evidence_and_a_map_that_shows_it(data):
    evaluator, rows = rows_of(data, gradient, ("original", "negative"), fill="black")
    assert len(rows) == 20
    positive = rows[rows["view"] == "original"]
    assert (positive["roc_auc"] == 1).all()
    assert (rows[rows["view"] == "negative"]["energy_inside"] == 4 / 1024).all()  # an empty map
    facts = evaluator.facts(rows, rows)
    assert facts["flips_inside"] == 1
    assert facts["flips_outside"] == 0
    assert facts["evidence_used"] is True
    assert facts["random_map"]["top_k"] == pytest.approx(4 / 1024)
    assert facts["masks_that_tell_nothing"] == 0


def test_evidence_that_is_not_used_is_said(data):
    images_mean = "white"  # covering a bright corner with white changes nothing
    evaluator, rows = rows_of(data, random_map, fill=images_mean)
    facts = evaluator.facts(rows, rows)
    assert facts["flips_inside"] == 0
    assert facts["evidence_used"] is False
    assert rows["roc_auc"].mean() == pytest.approx(0.5, abs=0.2)


class _SomeCorners(_Corners):
    """Half of the images without evidence, one that is evidence as a whole."""

    def masks(self, split, indices):
        found = super().masks(split, indices)
        found[:5] = False
        found[5] = True
        return found


def test_images_with_nothing_to_cover_do_not_count_as_not_flipped(tmp_path):
    data = _SomeCorners(train_images=20, test_images=10, cache_dir=str(tmp_path))
    evaluator, rows = rows_of(data, gradient, fill="black")
    assert rows["flips_inside"].isna().tolist() == [True] * 5 + [False] * 5
    assert rows["flips_outside"].isna().tolist() == [True] * 6 + [False] * 4
    assert (rows["flips_inside"][6:] == 1).all()
    # The whole image black is class 0, as before.
    assert evaluator.facts(rows, rows)["flips_inside"] == pytest.approx(4 / 5)


def test_data_without_masks_are_refused(tmp_path):
    data = Cifar10(cache_dir=str(tmp_path))
    images = torch.rand(2, 3, 32, 32)
    prepared = Engine().prepare(_Spot(), images)
    context = Context(prepared, Method("any", gradient, ("original",)), data, "test", 42)
    with pytest.raises(UserError, match="have masks for evaluator=localisation"):
        Localisation().check(context, "localisation")
