"""Two networks compared on the same images and classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from saliency_lab.attribution.methods.controls import sobel
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.label_randomisation.evaluator import LabelRandomisation
from saliency_lab.evaluation.randomisation.similarity import spearman
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN
from saliency_lab.models.checkpoint import load_classifier


def context_of(source: object) -> tuple[Context, Batch]:
    torch.manual_seed(5)
    data = Shapes(name="shapes")
    images = torch.rand(3, *data.input_shape)
    index = torch.arange(3)
    model = Engine().prepare(BasicCNN(num_classes=10).eval(), images)
    method = Method("any", source, ("original",))  # type: ignore[arg-type]
    return Context(model, method, data, "test", 1), Batch(images, index, index, ["a", "b", "c"])


@pytest.mark.parametrize("in_directory", [False, True])
def test_both_networks_explain_the_same_class(
    classifier_file: Path, tmp_path: Path, in_directory: bool
) -> None:
    other = classifier_file
    if in_directory:
        other = tmp_path / "run"
        (other / "checkpoints").mkdir(parents=True)
        (other / "checkpoints" / "last.ckpt").symlink_to(classifier_file)
    context, batch = context_of(gradient)
    evaluator = LabelRandomisation(other=str(other))
    evaluator.check(context, "label_randomisation")
    logits = context.model.logits(batch.image)
    found = found_maps(context.maps_of(batch.image, batch.ids))
    rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
    second = load_classifier(classifier_file).network
    after = gradient(second, batch.image).of(logits.argmax(1)).abs().amax(1)
    np.testing.assert_allclose(rows["spearman"], spearman(found.maps["original"], after), atol=1e-3)


def test_a_map_that_does_not_ask_the_model_fails(classifier_file: Path) -> None:
    context, batch = context_of(sobel)
    evaluator = LabelRandomisation(other=str(classifier_file))
    found = found_maps(context.maps_of(batch.image, batch.ids))
    rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
    (row,) = evaluator.facts(rows, rows)["gate"]
    assert row["verdict"] == "failed"
    assert row["value"] == pytest.approx(1)


def test_the_same_network_is_no_other(classifier_file: Path) -> None:
    context, batch = context_of(gradient)
    own = load_classifier(classifier_file).network
    context = dataclasses.replace(context, model=Engine().prepare(own, batch.image))
    with pytest.raises(UserError, match="is the run's own network"):
        LabelRandomisation(other=str(classifier_file)).check(context, "label_randomisation")


def test_another_network_is_needed(classifier_file: Path, tmp_path: Path) -> None:
    context, _ = context_of(gradient)
    with pytest.raises(UserError, match="training_labels=shuffled"):
        LabelRandomisation().check(context, "label_randomisation")
    with pytest.raises(UserError, match=r"label_randomisation\.other"):
        LabelRandomisation(other=str(tmp_path / "none.ckpt")).check(context, "label_randomisation")
    context.data = Shapes(name="shapes", classes=["circle", "cross"])
    with pytest.raises(UserError, match="classes"):
        LabelRandomisation(other=str(classifier_file)).check(context, "label_randomisation")


def test_a_network_of_other_weights_is_no_other_training(classifier_file: Path) -> None:
    context, batch = context_of(gradient)
    larger = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    larger(batch.image)
    context = dataclasses.replace(context, model=Engine().prepare(larger.eval(), batch.image))
    with pytest.raises(UserError, match=r"other weights: 495,146 in 22 tensors, not 30,730 in 2"):
        LabelRandomisation(other=str(classifier_file)).check(context, "label_randomisation")


@pytest.mark.parametrize("labels", ["given", "shuffled", None])
def test_a_training_on_the_labels_as_given_is_told(
    classifier_file: Path, tmp_path: Path, labels: str | None
) -> None:
    """Where the training lies that a checkpoint is of; a lone checkpoint does not say."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").symlink_to(classifier_file)
    if labels is not None:
        (tmp_path / "config.yaml").write_text(f"data:\n  training_labels: '{labels}'\n")
    context, batch = context_of(gradient)
    for other in (tmp_path, tmp_path / "checkpoints" / "last.ckpt"):
        evaluator = LabelRandomisation(other=str(other))
        found = found_maps(context.maps_of(batch.image, batch.ids))
        rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
        warnings = evaluator.facts(rows, rows).get("warnings", [])
        assert len(warnings) == (labels == "given")
