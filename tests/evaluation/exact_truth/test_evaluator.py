from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.methods.controls import random_map
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.occlusion import occlusion
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.exact_truth.evaluator import ExactTruth
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN
from saliency_lab.models.patch_sum import PatchSum


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return Shapes(train_images=20, test_images=10, cache_dir=cache)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = PatchSum(10, patch=8, width=8, depth=2)
    model.train()
    with torch.no_grad():  # statistics of the batch norms, so that images differ
        for _ in range(20):
            model(torch.rand(16, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def batch(data):
    split = data.split("test")
    made = split.__getitems__(list(range(10)))
    return made._replace(image=made.image.float() / 255)


def contextual(model, batch, data, source, views=VIEWS):
    prepared = Engine().prepare(model, batch.image)
    return Context(prepared, Method("any", source, views), data, "test", 42)


def rows_of(evaluator, context, batch):
    evaluator.check(context, "exact_truth")
    found = found_maps(context.maps_of(batch.image, batch.ids))
    return measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))


def test_a_source_without_random_numbers_needs_no_such_argument(model, batch, data):
    def plain(network, images):
        return gradient(network, images)

    expected = rows_of(ExactTruth(), contextual(model, batch, data, gradient), batch)
    found = rows_of(ExactTruth(), contextual(model, batch, data, plain), batch)
    pd.testing.assert_frame_equal(found, expected)


def test_the_gradient_by_a_slow_path(model, batch, data):
    """Patch by patch: the truth by occluding it, the map by autograd."""
    rows = rows_of(ExactTruth(), contextual(model, batch, data, gradient), batch)
    assert len(rows) == 50
    image = batch.image[3:4]
    with torch.no_grad():
        whole = model(image)[0]
        target = int(whole.argmax())
    grid = image.clone().requires_grad_()
    slope = torch.autograd.grad(model(grid)[0, target], grid)[0][0]
    truth, shown, signed = [], [], []
    for top in range(0, 32, 8):
        for left in range(0, 32, 8):
            occluded = image.clone()
            occluded[:, :, top : top + 8, left : left + 8] = 0
            with torch.no_grad():
                truth.append(whole - model(occluded)[0])
            part = slope[:, top : top + 8, left : left + 8]
            shown.append(float(part.abs().amax(0).mean()))
            signed.append(float(part.sum()))
    truth = torch.stack(truth)
    own = truth[:, target]
    row = rows[(rows["index"] == 3) & (rows["view"] == "original")].iloc[0]
    assert row["rank_correlation"] == pytest.approx(spearmanr(shown, own.abs()).statistic)
    inside = own > 0
    assert row["energy"] == pytest.approx(np.asarray(shown)[inside].sum() / sum(shown), rel=1e-4)
    assert row["energy_chance"] == pytest.approx(float(inside.double().mean()))
    right = (np.sign(signed) == np.sign(own.numpy())).astype(float)
    expected = [right[own.numpy() > 0].mean(), right[own.numpy() < 0].mean()]
    assert row["sign_agreement"] == pytest.approx(np.mean(expected))
    others = torch.cat([truth[:, :target], truth[:, target + 1 :]], 1).amax(1)
    row = rows[(rows["index"] == 3) & (rows["view"] == "active")].iloc[0]
    assert row["energy_chance"] == pytest.approx(float((own > others).double().mean()))


def test_occlusion_of_whole_patches_is_the_truth(model, batch, data):
    source = partial(occlusion, window=0.25, stride=0.25, baseline="black")
    rows = rows_of(ExactTruth(), contextual(model, batch, data, source), batch)
    exact = rows[rows["view"].isin(["original", "positive", "negative"])]
    assert exact["rank_correlation"].where(exact["informative"] > 0, 1).min() > 0.999
    assert exact["sign_agreement"].min() > 0.999
    positive = rows[rows["view"] == "positive"]
    assert positive["energy"].min() > 0.999


def test_a_random_map_gets_what_is_written_beside_it(model, batch, data):
    rows = []
    for seed in range(30):
        context = contextual(model, batch, data, random_map, ("original",))
        context.seed = seed
        rows.append(rows_of(ExactTruth(), context, batch))
    rows = pd.concat(rows)
    assert abs(rows["rank_correlation"].mean()) < 4 * 0.26 / np.sqrt(len(rows))
    assert rows["energy"].mean() == pytest.approx(rows["energy_chance"].mean(), abs=0.01)
    facts = ExactTruth().facts(rows, rows)
    assert facts["random_map"]["energy"] == pytest.approx(rows["energy_chance"].mean())


def test_the_mean_patch_is_another_baseline(model, batch, data):
    context = contextual(model, batch, data, gradient)
    black = rows_of(ExactTruth(), context, batch)
    mean = rows_of(ExactTruth(baseline="mean"), context, batch)
    assert not np.allclose(black["rank_correlation"], mean["rank_correlation"])
    assert mean.select_dtypes("number").notna().all(axis=None)


def test_batches_change_nothing(model, batch, data):
    context = contextual(model, batch, data, gradient)
    whole = rows_of(ExactTruth(), context, batch)
    part = Batch(batch.image[7:], batch.label[7:], batch.index[7:], batch.ids[7:])
    alone = rows_of(ExactTruth(), context, part).sort_values(["view", "index"])
    expected = whole[whole["index"] >= 7].sort_values(["view", "index"])
    for name in ("rank_correlation", "energy", "sign_agreement"):
        np.testing.assert_allclose(alone[name], expected[name], rtol=1e-5)


def test_other_models_are_refused_in_one_line(batch, data):
    context = contextual(BasicCNN(10).eval(), batch, data, gradient)
    with pytest.raises(UserError, match="model=patch_sum") as caught:
        ExactTruth().check(context, "exact_truth")
    assert "\n" not in str(caught.value)
