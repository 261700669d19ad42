"""Evaluators that ask the model about altered images: their rows, ranges and independence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.evaluation.base import Evaluator, measured_rows
from saliency_lab.evaluation.complexity.evaluator import Complexity
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.infidelity.evaluator import InfidelityEvaluator
from saliency_lab.evaluation.max_sensitivity.evaluator import MaxSensitivity
from saliency_lab.evaluation.mu_fidelity.evaluator import MuFidelity
from saliency_lab.evaluation.panel.evaluator import Panel
from saliency_lab.evaluation.pgi_pgu.evaluator import PredictionGap
from saliency_lab.evaluation.relevance_gain.evaluator import RelevanceGainEvaluator
from saliency_lab.evaluation.sensitivity_n.evaluator import SensitivityN
from saliency_lab.inference.engine import Engine

EVALUATORS: dict[str, Evaluator] = {
    "relevance_gain": RelevanceGainEvaluator(
        fills=("mean", "road"), segments=("pixels", 9), fractions=(0, 0.2, 0.6, 1)
    ),
    "mu_fidelity": MuFidelity(grid=4, samples=20),
    "infidelity": InfidelityEvaluator(samples=10),
    "sensitivity_n": SensitivityN(shares=(0.1, 0.5), samples=10),
    "pgi_pgu": PredictionGap(fractions=(0.1, 0.5), samples=3),
    "complexity": Complexity(),
    "max_sensitivity": MaxSensitivity(samples=2),
}
ROWS_PER_IMAGE = {"relevance_gain": 4, "sensitivity_n": 2, "pgi_pgu": 2}
IMAGE = ["sample_id", "index", "label", "method", "view"]


def drawn_batch() -> Batch:
    stream = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 12, 12, generator=stream)
    return Batch(images, torch.arange(4) % 3, torch.arange(4), [f"test/{n}" for n in range(4)])


def context_of(images: torch.Tensor, tmp_path: Path) -> Context:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 3)
        )
    method = Method("gradient", gradient, VIEWS)
    data: Any = Shapes(train_images=4, test_images=4, cache_dir=str(tmp_path))
    return Context(Engine().prepare(network, images), method, data, "test", 42)


def rows_of(evaluator: Evaluator, context: Context, batch: Batch) -> pd.DataFrame:
    evaluator.check(context, "measure")
    found = found_maps(context.maps_of(batch.image, batch.ids))
    return measured_rows(evaluator, batch, "gradient", evaluator.measure(context, batch, found))


@pytest.mark.parametrize("name", EVALUATORS)
def test_rows_are_whole_in_range_and_independent_of_the_batch(name: str, tmp_path: Path) -> None:
    evaluator, batch = EVALUATORS[name], drawn_batch()
    context = context_of(batch.image, tmp_path)
    before = {key: value.clone() for key, value in context.model.original.state_dict().items()}
    rows = rows_of(evaluator, context, batch)
    assert len(rows) == 4 * len(VIEWS) * ROWS_PER_IMAGE.get(name, 1)
    assert not rows.isna().any().any()
    scores = evaluator.image_scores(rows)
    conditions = list(evaluator.keys if evaluator.conditions is None else evaluator.conditions)
    assert not scores.duplicated([*IMAGE, *conditions]).any()
    for score in evaluator.scores:
        values = scores[score.name]
        assert values.nunique() > 4, score.name
        assert score.low is None or values.min() >= score.low
        assert score.high is None or values.max() <= score.high
    part = Batch(batch.image[2:3], batch.label[2:3], batch.index[2:3], batch.ids[2:3])
    alone = rows_of(evaluator, context, part).reset_index(drop=True)
    together = rows[rows["sample_id"] == batch.ids[2]].reset_index(drop=True)
    numbers = [score.name for score in evaluator.scores]
    pd.testing.assert_frame_equal(alone[numbers], together[numbers], atol=2e-5, rtol=1e-4)
    pd.testing.assert_frame_equal(
        alone[IMAGE].astype(object), together[IMAGE].astype(object), check_dtype=False
    )
    for key, value in context.model.original.state_dict().items():
        assert torch.equal(value, before[key])


def test_scores_of_an_image_are_means_over_its_rows(tmp_path: Path) -> None:
    batch = drawn_batch()
    context = context_of(batch.image, tmp_path)
    for name, column in (("sensitivity_n", "sensitivity_n"), ("pgi_pgu", "pgi")):
        rows = rows_of(EVALUATORS[name], context, batch)
        scores = EVALUATORS[name].image_scores(rows)
        assert len(scores) == 4 * len(VIEWS)
        for _, score in scores.iterrows():
            own = rows[(rows["sample_id"] == score["sample_id"]) & (rows["view"] == score["view"])]
            assert score[column] == pytest.approx(own[column].mean())


def test_the_panel_asks_every_measure_about_maps_and_twins(tmp_path: Path) -> None:
    images, labels = drawn_shapes(tmp_path)
    ids = [f"test/{n}" for n in range(len(labels))]
    batch = Batch(images, labels, torch.arange(len(labels)), ids)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 10),
        )  # fmt: skip
        with torch.no_grad():
            network[-1].bias -= network(images).mean(0)  # else all are of one class
    data: Any = Shapes(train_images=4, test_images=len(labels), cache_dir=str(tmp_path))
    views = ("original", "active")
    model = Engine().prepare(network, images)
    context = Context(model, Method("gradient", gradient, views), data, "test", 42)
    panel = Panel(samples=10, confidence=0.0)
    scores = panel.image_scores(rows_of(panel, context, batch))
    measures = set(scores["measure"])
    assert {"relevance gain, mean", "relevance gain, ROAD", "MuFidelity"} <= measures
    assert scores["value"].between(-1, 1).all()
    counts = scores.groupby(["measure", "version", "view"], observed=True).size()
    assert set(counts.loc["MuFidelity"]) == {len(labels)}
    facts = panel.facts(scores, scores)
    (verdict,) = facts["verdicts"]
    assert {verdict["a"], verdict["b"]} == set(views)
    assert len(facts["twins"]) == 2 * len(measures)


def drawn_shapes(tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    data = Shapes(train_images=4, test_images=12, cache_dir=str(tmp_path))
    pixels = torch.from_numpy(data.images("test", list(range(12)))).float() / 255
    return pixels, torch.from_numpy(data.labels("test"))
