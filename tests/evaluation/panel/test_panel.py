"""The panel leaves out what a method cannot be asked, and says which measures there were."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch

from saliency_lab.attribution.methods.grad_cam import grad_cam
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.panel.evaluator import Panel, above_chance
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN

SIX = {"relevance gain, mean", "relevance gain, ROAD", "MuFidelity", "GridPG", "DiFull", "evidence"}
IMAGES = 6


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pd.DataFrame]:
    torch.manual_seed(3)
    network = BasicCNN(num_classes=10).eval()
    folder = str(tmp_path_factory.mktemp("cache"))
    data = Shapes(name="shapes", train_images=20, test_images=20, cache_dir=folder)
    pixels = torch.from_numpy(data.images("test", range(20))).float() / 255
    labels = torch.from_numpy(data.labels("test"))
    # Grids are of images that are classified rightly, so these few are learnt by heart.
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(pixels), labels)
        loss.backward()
        optimizer.step()
    network.requires_grad_(False)
    assert bool((network(pixels).argmax(1) == labels).all())
    index = torch.arange(IMAGES)
    batch = Batch(pixels[:IMAGES], labels[:IMAGES], index, data.ids("test")[:IMAGES])

    def rows(source, **settings) -> pd.DataFrame:
        model = Engine(frozen_copy=False).prepare(network, batch.image)
        context = Context(model, Method("any", source, ("original",)), data, "test", 42)
        panel = Panel(**{"samples": 5, "confidence": 0.0, "grids": 20, **settings})
        panel.check(context, "panel")
        found = found_maps(context.maps_of(batch.image, batch.ids))
        return measured_rows(panel, batch, "any", panel.measure(context, batch, found))

    return rows


def test_a_method_that_reads_a_layer_is_measured_without_difull(measured) -> None:
    rows = measured(grad_cam, twin=False)
    assert set(rows["measure"].astype(str)) == SIX - {"DiFull"}


def test_a_method_that_can_be_asked_everything_is_measured_six_times_with_its_twin(
    measured,
) -> None:
    rows = measured(gradient)
    assert set(rows["measure"].astype(str)) == SIX
    assert (rows.groupby("measure", observed=True)["version"].nunique() == 2).all()
    assert len(rows) == 2 * 6 * IMAGES


def test_shares_are_above_chance_whatever_the_chance() -> None:
    share = torch.tensor([0.25, 1.0, 0.0, 0.625, 0.75, 1.0, 0.0, 0.375])
    chance = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75])
    found = above_chance(share, chance)
    third = 1 / 3
    assert found.tolist() == pytest.approx([0, 1, -third, 0.5, 0, third, -1, -0.5])


def test_a_map_that_knows_nothing_has_nothing_however_its_shares_scatter() -> None:
    # One pixel lies in the own cell or does not; as a negative view it is to lie elsewhere.
    own = (torch.arange(4000) % 4 == 0).double()
    quarter = torch.full_like(own, 0.25)
    assert float(above_chance(own, quarter).mean()) == pytest.approx(0)
    assert float(above_chance(1 - own, 1 - quarter).mean()) == pytest.approx(0)


def test_grid_values_of_the_panel_are_those_above_chance(measured) -> None:
    rows = measured(gradient, twin=False)
    found = rows[rows["measure"] == "DiFull"]["value"]
    # The gradient of a network of separate cells lies in the own cell by construction.
    assert found.to_numpy() == pytest.approx(1.0)


def test_a_network_that_is_sure_of_too_few_classes_is_measured_without_grids(measured) -> None:
    rows = measured(gradient, twin=False, confidence=1.0)
    assert set(rows["measure"].astype(str)) == SIX - {"DiFull", "GridPG"}
    facts = Panel(confidence=1.0).facts(rows.assign(method="any"), rows)
    assert "confidence of 1.0 (evaluator.panel.confidence)" in facts["warnings"][0]
    assert len(facts["warnings"]) == 1
    facts = Panel(confidence=1.0, least=5).facts(rows.assign(method="any"), rows)
    assert "no map can beat another: a verdict takes 5 measures" in facts["warnings"][1]
    assert "and there are 4" in facts["warnings"][1]
    whole = measured(gradient, twin=False)
    assert "warnings" not in Panel().facts(whole, whole)
