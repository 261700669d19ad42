"""Evaluators and the prepared model from Python, without Hydra."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import saliency_lab as sl
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.models.basic_cnn import BasicCNN


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    found = BasicCNN(num_classes=6).eval()
    with torch.no_grad():
        found.fc.weight.mul_(50)
    return found


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Mass(Evaluator):
    """The mean of a map, as somebody's own evaluator."""

    scores = (Score("mass", "higher", 0.0),)

    def measure(self, context, batch, maps):
        for view, values in maps.maps.items():
            yield Measured(view, {}, {"mass": values.mean((1, 2))})


def test_a_prepared_model_gives_the_same_maps_and_curves(network, images) -> None:
    methods = ("original", "active", "lrp", "smoothgrad/positive")
    with sl.prepared(network, images) as fast:
        mine, plain = (sl.explain(model, images, methods) for model in (fast, network))
        for name in methods:
            assert torch.allclose(mine[name], plain[name], atol=1e-5 * float(plain[name].max()))
        curves = [sl.deletion_curve(m, images, plain["active"]) for m in (fast, network)]
        assert (curves[0] == curves[1]).float().mean() > 0.99
        assert torch.allclose(fast(images), network(images), atol=1e-4)
    assert fast.model is fast.original
    assert not network.training


def test_rows_are_those_of_the_python_functions(network, images) -> None:
    rows = sl.measure(network, images, ("original", "active"), fills=["black"], labels=[2] * 7)
    maps = sl.explain(network, images, ("original", "active"))
    for view in ("original", "active"):
        curve = rows[rows["view"] == view]
        expected = sl.deletion_curve(network, images, maps[view], fill="black")
        found = curve["agrees"].to_numpy().reshape(7, -1)
        assert (found == expected.numpy()).mean() > 0.98
    assert rows["label"].unique().tolist() == [2]
    scores = sl.measure(network, images, ("original",), fills=["black"], scores=True)
    area = sl.area_under_curve(
        sl.deletion_curve(network, images, maps["original"]).float(), sl.PAPER_FRACTIONS
    )
    np.testing.assert_allclose(scores["allegiance"], area, atol=0.1)
    assert np.abs(scores["allegiance"] - area.numpy()).mean() < 0.01


def test_blocks_change_nothing(network, images) -> None:
    whole = sl.measure(network, images, ("smoothgrad/active",), fills=["noise"])
    parts = sl.measure(network, images, ("smoothgrad/active",), fills=["noise"], batch_size=3)
    parts = parts.sort_values(["index", "fraction"], ignore_index=True)
    assert whole["prediction"].tolist() == parts["prediction"].tolist()
    np.testing.assert_allclose(whole["logit"], parts["logit"], rtol=1e-3, atol=1e-2)


def test_an_evaluator_of_ones_own(network, images) -> None:
    rows = sl.measure(network, images, ("positive", "negative"), Mass())
    maps = sl.explain(network, images, ("positive", "negative"))
    for view in maps:
        found = rows.loc[rows["view"] == view, "mass"]
        np.testing.assert_allclose(found, maps[view].mean((1, 2)), rtol=1e-4)
    with pytest.raises(sl.UserError, match="no settings beside an evaluator"):
        sl.measure(network, images, ("positive",), Mass(), power=2)


def test_masks_are_bool_or_say_as_much(network, images) -> None:
    masks = np.zeros((7, 32, 32), dtype=bool)
    masks[:, 4:20, 8:24] = True
    masks[0] = False

    def scores(given):
        found = sl.measure(network, images, "active", "localisation", masks=given, scores=True)
        return found["roc_auc"].to_numpy()

    expected = scores(masks)
    said = (masks.astype(np.uint8) * 255, masks.astype(int), masks * 0.5, masks.tolist())
    for same in (*said, torch.from_numpy(masks)):
        np.testing.assert_array_equal(scores(same), expected)


def test_masks_that_leave_something_open_are_refused(network, images) -> None:
    soft = np.random.default_rng(0).random((7, 32, 32)) * 0.1
    whole = np.ones((7, 32, 32), dtype=bool)
    for wrong, said in (
        (soft, r"0 and one positive number, but got .*, …; say what is evidence"),
        (np.where(soft > 0.05, 2, 1), "but got 1, 2;"),
        (np.where(soft > 0.05, 0, -1), "but got -1;"),
        (np.where(soft > 0.05, np.nan, 1), "but got 1, nan;"),
        (whole.astype("U1"), "bool or numbers, but got <U1"),
        (np.ones((8, 32, 32), dtype=bool), r"of shape \(7, 32, 32\), but got \(8, 32, 32\)"),
        (whole[:5], r"but got \(5, 32, 32\)"),
        (whole[:, None], r"but got \(7, 1, 32, 32\)"),
        (whole[:, :16], r"but got \(7, 16, 32\)"),
        ([whole[0], whole[0, :16]], "unequal parts"),
    ):
        with pytest.raises(sl.UserError, match=f"Expected `masks` .*{said}"):
            sl.measure(network, images, "active", "localisation", masks=wrong)


def test_what_an_evaluator_needs_is_asked_for(network, images) -> None:
    with pytest.raises(sl.UserError, match="masks"):
        sl.measure(network, images, ("original",), "localisation")
    with pytest.raises(sl.UserError, match=r"one of .*deletion"):
        sl.measure(network, images, ("original",), "deletoin")
    with pytest.raises(sl.UserError, match=r"evaluator\.deletion\.fill"):
        sl.measure(network, images, ("original",), "deletion", fill="black")
    with pytest.raises(sl.UserError, match="a label and an id"):
        sl.measure(network, images, ("original",), labels=[1])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.9, 1, 2, 3, 4, 5, 0], r"whole numbers, .*got \(7,\) of float64"),
        ([np.nan] * 7, "whole numbers"),
        (np.eye(7, 6, dtype=int), r"whole numbers, .*got \(7, 6\) of int64"),
        (["cat"] * 7, "whole numbers, .*got .* of <U3"),
        ([[1], [1, 2]], "whole numbers"),
        ([True] * 7, "whole numbers, .* of bool"),
        ([0, 1, 2, 3, 4, 5, 6], r"in \[0, 6\), or -1 for none, but got 0 to 6"),
        (torch.tensor([-2, 0, 0, 0, 0, 0, 0]), r"in .* but got -2 to 0"),
    ],
)
def test_labels_that_are_no_classes_are_refused(network, images, labels, said) -> None:
    with pytest.raises(sl.UserError, match=f"Expected `labels` to be {said}"):
        sl.measure(network, images, "original", Mass(), labels=labels)


def test_labels_are_classes_or_none(network, images) -> None:
    given = [-1, 0, 5, 3, 3, 2, 1]
    for labels in (given, np.array(given, dtype=np.int8), torch.tensor(given)):
        rows = sl.measure(network, images, "original", Mass(), labels=labels)
        assert rows["label"].tolist() == given
    assert set(sl.measure(network, images, "original", Mass())["label"]) == {-1}


def test_there_is_a_name_for_every_logit(network, images) -> None:
    with pytest.raises(sl.UserError, match=r"`class_names` .* each of 6 logits, but got 2"):
        sl.measure(network, images, "original", Mass(), class_names=["a", "b"])
    assert len(sl.measure(network, images, "original", Mass(), class_names="abcdef")) == 7


def test_functions_are_methods_as_in_explain(network, images) -> None:
    def gradient(model, images, targets):
        return images.mean(1) * (1 + targets[:, None, None])

    def drawn(model, images, targets, *, generator):
        return generator.uniform(*images.shape[2:])

    rows = sl.measure(network, images, [gradient, "original", drawn, "active"], Mass())
    assert set(map(tuple, rows[["method", "view"]].to_numpy())) == {
        ("gradient", "original"), ("gradient", "active"),
        ("gradient-2", "original"), ("drawn", "original"),
    }  # fmt: skip
    maps = sl.explain(network, images, [gradient, drawn])
    for name, own in (("gradient-2", "gradient"), ("drawn", "drawn")):
        found = rows.loc[rows["method"] == name, "mass"]
        np.testing.assert_allclose(found, maps[own].mean((1, 2)), rtol=1e-4)
    pd.testing.assert_frame_equal(
        sl.measure(network, images, drawn, Mass(), batch_size=3),
        sl.measure(network, images, [drawn, drawn], Mass()),
    )


@pytest.mark.parametrize(("methods", "got"), [([], "none"), ([3], "int")])
def test_methods_that_are_none_are_refused(network, images, methods, got) -> None:
    with pytest.raises(sl.UserError, match=f"Expected `methods` to be .* but got {got}"):
        sl.measure(network, images, methods, Mass())


def test_a_single_logit_is_refused_but_explained(images) -> None:
    """Nothing is predicted by one logit, so no measure is taken; its gradient is a map as any."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 900, 1)).eval()
    with pytest.raises(sl.UserError, match=r"at least two classes.* but got 1; .*\(0, s\)"):
        sl.measure(model, images, ("original",), fills=["black"])
    maps = sl.explain(model, images, ("original",))
    with pytest.raises(sl.UserError, match="at least two classes"):
        sl.prediction_gaps(model, images, maps["original"], samples=2)
    assert maps["original"].abs().sum() > 0


@pytest.mark.parametrize("setting", [{"seed": 42.0}, {"methods": None}])
def test_seeds_and_methods_of_another_kind_are_refused(images, network, setting):
    with pytest.raises(UserError, match=f"Expected `{next(iter(setting))}` to be"):
        sl.measure(network, images, **setting)
