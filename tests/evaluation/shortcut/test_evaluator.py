from __future__ import annotations

import pytest
import torch
from torch import nn

from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.shortcut.evaluator import Shortcut
from saliency_lab.inference.engine import Engine

CORNER, CLASS = 6, 2


class _Reader(nn.Module):
    """Class 2 where a patch of the image alternates between black and white, else class 0 or 1 by
    the brightness of the image's middle."""

    def __init__(self, corner: bool) -> None:
        super().__init__()
        self.corner = corner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = x[:, :, :CORNER, :CORNER] if self.corner else x[:, :, 12:20, 12:20]
        contrast = part.flatten(1).var(1)
        middle = x[:, :, 12:20, 12:20].mean((1, 2, 3))
        logits = [middle, 0.6 - middle, 20 * contrast - 2]
        return torch.stack([*logits, *[middle - 9] * 7], 1)


def rows_of(corner, tmp_path, source=gradient, **settings):
    data = Shapes(train_images=20, test_images=20, cache_dir=str(tmp_path), **settings)
    split = data.split("test")
    batch = split.__getitems__(list(range(20)))
    batch = Batch(batch.image.float() / 255, batch.label, batch.index, batch.ids)
    prepared = Engine().prepare(_Reader(corner).eval(), batch.image)
    context = Context(prepared, Method("any", source, ("original",)), data, "test", 42)
    evaluator = Shortcut()
    evaluator.check(context, "shortcut")
    found = found_maps(context.maps_of(batch.image, batch.ids))
    rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
    return evaluator, rows


PATCH = {"shortcut": "patch", "shortcut_share": 1.0, "shortcut_strength": 1.0}


def test_a_network_that_relies_on_the_cue_and_one_that_does_not(tmp_path):
    named = {"shortcut_class": "circle", **PATCH}
    evaluator, relying = rows_of(True, tmp_path, **named)
    facts = evaluator.facts(relying, relying)
    assert facts["swayed"] == 1
    assert facts["relied_on"] is True
    assert relying["found"].min() == 1
    assert relying["roc_auc"].min() > 0.99
    assert facts["random_map"]["found"] == pytest.approx(36 / 1024)
    evaluator, blind = rows_of(False, tmp_path, **named)
    facts = evaluator.facts(blind, blind)
    assert facts["swayed"] == 0
    assert facts["relied_on"] is False
    assert blind["found"].max() == 0
    assert facts["accuracy_with"] == facts["accuracy_without"]


def _lost(model, images, targets, *, generator=None):
    """The gradient; of the first image a value has overflowed."""
    values = gradient(model, images).of(targets).abs().amax(1)
    values[0, 0, 0] = torch.inf
    return values


def test_a_map_that_is_not_finite_is_no_chance_result(tmp_path):
    _, rows = rows_of(True, tmp_path, _lost, shortcut_class="circle", **PATCH)
    scores = rows[["energy_inside", "found", "roc_auc"]]
    assert scores.iloc[0].isna().all()
    assert scores.iloc[1:].notna().all(axis=None)
    assert rows["swayed"].iloc[0] == 1 or rows["label"].iloc[0] == CLASS


def test_swayed_is_defined_for_other_classes_only(tmp_path):
    _, rows = rows_of(True, tmp_path, shortcut_class="circle", **PATCH)
    own = rows["label"] == CLASS
    assert rows[own]["swayed"].isna().all()
    assert rows[~own]["swayed"].notna().sum() > 5
    # What carries the cue already is taken without it first, and is nothing but a shape then.
    assert not rows[own]["right_without"].any()
    assert rows[own]["right_with"].all()


def test_without_a_cue_there_is_nothing_to_find(tmp_path):
    with pytest.raises(UserError, match=r"data\.shortcut` to be watermark, patch or colour"):
        rows_of(True, tmp_path)
