from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.methods.controls import random_map
from saliency_lab.attribution.methods.grad_cam import grad_cam
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.gradient_x_input import gradient_x_input
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.grid_pointing.evaluator import GridPointing
from saliency_lab.evaluation.grid_pointing.rivals import compositions, confident
from saliency_lab.evaluation.perturbation import NonFiniteAlteredError
from saliency_lab.inference.engine import Engine

SIDE = 32


class _Coloured(Shapes):
    """Images of class c are bright in row c of pixels alone, some of them less so."""

    def images(self, split, indices):
        found = np.zeros((len(indices), 3, SIDE, SIDE), dtype=np.uint8)
        labels = self.labels(split)
        for at, index in enumerate(indices):
            found[at, :, labels[index], :] = 2 if index % 4 == 3 else 200
        return found


class _Rows(nn.Module):
    """The logit of class c is what is bright in rows that are c modulo the side, less the rest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.unflatten(2, (-1, SIDE)).mean((1, 2, 4))[:, :10]
        return 40 * (2 * rows - rows.sum(1, keepdim=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return _Coloured(train_images=20, test_images=40, cache_dir=cache)


def contextual(data, source, views=VIEWS, network=None):
    images = torch.from_numpy(data.images("test", range(40))).float() / 255
    batch = Batch(images, torch.from_numpy(data.labels("test")), torch.arange(40), data.ids("test"))
    prepared = Engine().prepare(network or _Rows(), images)
    return Context(prepared, Method("any", source, views), data, "test", 42), batch


def rows_of(evaluator, context, batch):
    evaluator.check(context, "grid_pointing")
    found = found_maps(context.maps_of(batch.image, batch.ids))
    return measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))


class _LostOnGrids(_Rows):
    """Logits of anything larger than one image are not finite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        return found if x.shape[2] == SIDE else found * torch.nan


def test_grids_without_finite_logits_are_refused_and_not_left_out(data):
    context, batch = contextual(data, gradient, network=_LostOnGrids())
    evaluator = GridPointing(sides=[2], confidence=0.5, separate=False)
    with pytest.raises(NonFiniteAlteredError, match=f"of grids of images.* {batch.ids[0]}, "):
        rows_of(evaluator, context, batch)


def test_confident_means_right_and_sure():
    logits = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0]])
    found = confident(logits, torch.tensor([0, 0, 0]), 0.9)
    assert found.tolist() == [True, False, False]
    assert confident(logits, torch.tensor([0, 0, 0]), 0.5).tolist() == [True, True, False]


def test_grids_of_different_classes(data):
    context, batch = contextual(data, gradient)
    pool = [[c, c + 10] for c in range(10)]
    found = compositions(context, batch.ids, batch.label.tolist(), pool, 3)
    owns = [own for own, _ in found]
    assert set(owns) == set(range(9))
    for label, (_, rivals) in zip(batch.label.tolist(), found, strict=True):
        classes = {rival % 10 for rival in rivals}
        assert len(classes) == 8
        assert label not in classes
    again = compositions(context, batch.ids[5:7], batch.label[5:7].tolist(), pool, 3)
    assert again == found[5:7]
    with pytest.raises(UserError, match=r"sides` to fit the 5 classes .* got 3 \(9 cells\)"):
        compositions(context, batch.ids[:1], [0], [[1]] * 5 + [[]] * 5, 3)


def test_all_cells_have_bytes(data):
    context, batch = contextual(data, gradient)
    finer = batch._replace(image=batch.image * 0.9 + 0.0007)
    evaluator = GridPointing(sides=(2,), confidence=0)
    found = evaluator._grids(context, finer, [3, 4], 2)
    torch.testing.assert_close(found.images * 255, (found.images * 255).round(), rtol=0, atol=1e-4)
    for grid, own, image in zip(found.images, found.own.tolist(), finer.image[3:5], strict=True):
        top, left = SIDE * (own // 2), SIDE * (own % 2)
        cell = grid[:, top : top + SIDE, left : left + SIDE]
        torch.testing.assert_close(cell, image, rtol=0, atol=0.501 / 255)


def test_scores_of_a_network_whose_answer_is_known(data):
    """Gradient × input of class c: + in row c of its own cell, − where the rivals are bright."""
    context, batch = contextual(data, gradient_x_input)
    evaluator = GridPointing(sides=(2,), confidence=0.9)
    rows = rows_of(evaluator, context, batch)
    scores = evaluator.image_scores(rows)
    logits = _Rows()(batch.image)
    sure = confident(logits, batch.label, 0.9)
    assert 10 <= int(sure.sum()) < 40
    assert set(scores["index"]) == set(sure.nonzero()[:, 0].tolist())
    grid = scores[scores["setting"] == "grid"].set_index("view")
    assert grid.loc["positive", "pointing"].to_numpy() == pytest.approx(1)
    assert grid.loc["negative", "pointing"].to_numpy() == pytest.approx(1)
    assert grid.loc["original", "pointing"].to_numpy() == pytest.approx(0.25, abs=0.02)
    assert grid.loc["negative", "chance"].unique().tolist() == [0.75]
    apart = scores[scores["setting"] == "separate"]
    assert (apart[apart["view"] == "positive"]["pointing"] == 1).all()
    assert evaluator.facts(rows, scores)["grids"] == int(sure.sum())


def test_difull_of_the_gradient_is_one_and_a_random_map_gets_its_chance(data):
    context, batch = contextual(data, gradient, ("original", "positive"))
    evaluator = GridPointing(confidence=0.9)
    rows = evaluator.image_scores(rows_of(evaluator, context, batch))
    apart = rows[rows["setting"] == "separate"]
    assert set(apart["side"]) == {2, 3}
    assert apart["pointing"].to_numpy() == pytest.approx(1)
    context, batch = contextual(data, random_map, ("original",))
    rows = evaluator.image_scores(rows_of(evaluator, context, batch))
    for (_, side), group in rows.groupby(["setting", "side"], observed=True):
        assert group["pointing"].mean() == pytest.approx(1 / side**2, abs=0.01)


def test_batches_and_count(data):
    context, batch = contextual(data, gradient, ("original",))
    evaluator = GridPointing(sides=(2,), confidence=0.9, count=20)
    whole = evaluator.image_scores(rows_of(evaluator, context, batch))
    assert 0 < whole["index"].nunique() < 20
    half = Batch(batch.image[20:], batch.label[20:], batch.index[20:], batch.ids[20:])
    part = evaluator.image_scores(rows_of(evaluator, contextual(data, gradient)[0], half))
    part = part[part["view"] == "original"]
    expected = whole[whole["index"] >= 20]
    np.testing.assert_allclose(part["pointing"], expected["pointing"], rtol=1e-6)


def test_a_batch_without_a_confident_image_gives_no_row(data):
    context, batch = contextual(data, gradient, ("original",))
    few = Batch(batch.image[3:4], batch.label[3:4], batch.index[3:4], batch.ids[3:4])
    evaluator = GridPointing(sides=(2,), confidence=0.9)
    assert evaluator.image_scores(rows_of(evaluator, context, few)).empty


class _OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIDE * SIDE, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


def test_what_cannot_be_measured_is_said_in_one_line(data):
    context, batch = contextual(data, gradient, ("original",), _OneSize())
    with pytest.raises(UserError, match="take grids of 64×64 pixels for evaluator=") as caught:
        GridPointing().check(context, "grid_pointing")
    assert "\n" not in str(caught.value)
    layer = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(layer.weight)
    network = nn.Sequential(layer, _Rows())
    context, batch = contextual(data, grad_cam, ("original",), network)
    settings = {"sides": (2,), "confidence": 0.0}
    with pytest.raises(UserError, match=r"grid_pointing\.separate=false leaves out"):
        rows_of(GridPointing(**settings, separate=True), context, batch)
    plain = rows_of(GridPointing(**settings, separate=False), context, batch)
    # Unless asked for, what a method cannot explain is left out, and said to be.
    found = rows_of(GridPointing(**settings), context, batch)
    pd.testing.assert_frame_equal(found, plain)
    assert set(found["setting"]) == {"grid"}
    (warning,) = GridPointing(**settings).facts(found, found)["warnings"]
    assert "DiFull is left out" in warning
    assert "warnings" not in GridPointing(**settings, separate=False).facts(plain, plain)


def test_grids_fit_where_enough_classes_have_an_image_of_the_confidence(data):
    context, batch = contextual(data, gradient)
    sure = confident(_Rows()(batch.image), batch.label, 0.9)
    classes = len(set(batch.label[sure].tolist()))
    assert classes >= 4
    assert GridPointing(sides=(2,), confidence=0.9).fits(context)
    assert not GridPointing(sides=(2, 4), confidence=0.9).fits(context)
