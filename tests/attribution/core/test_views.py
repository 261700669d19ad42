"""Views against the formulas as plain loops, closed forms, ties, cost and memory."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.views import VIEWS, views
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.errors import UserError


class GivenField:
    """A field whose attributions are listed: (K, B, C, H, W); it counts what it is asked."""

    def __init__(self, attributions: Tensor, logits: Tensor | None = None) -> None:
        self.attributions = attributions
        classes, batch = attributions.shape[:2]
        self.logits = torch.zeros(batch, classes) if logits is None else logits
        self.asked: list[list[int]] = []
        self.given: list[weakref.ref[Tensor]] = []
        self.most_alive = 0

    def of(self, classes: Tensor) -> Tensor:
        self.asked.append(classes.tolist())
        rows = torch.arange(len(classes))
        found = self.attributions[classes, rows]
        self.given.append(weakref.ref(found))
        alive = sum(reference() is not None for reference in self.given)
        self.most_alive = max(self.most_alive, alive)
        return found


def reference(attributions: Tensor, targets: list[int], name: str, channels: str) -> Tensor:
    """The formulas of the paper, one number at a time."""
    classes, batch, depth, height, width = attributions.shape
    g = attributions.double().tolist()
    out = torch.zeros(batch, height, width, dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                terms = []
                for k in range(depth):
                    own = g[targets[b]][b][k][i][j]
                    rivals = [g[c][b][k][i][j] for c in range(classes) if c != targets[b]]
                    kept = {
                        "original": abs(own),
                        "positive": own if own > 0 else 0.0,
                        "negative": -own if own < 0 else 0.0,
                        "active": abs(own) if all(own > other for other in rivals) else 0.0,
                        "inactive": abs(own) if all(own < other for other in rivals) else 0.0,
                    }
                    terms.append(kept[name])
                out[b, i, j] = {
                    "max": max(terms),
                    "sum": sum(terms),
                    "l2": math.sqrt(sum(term * term for term in terms)),
                }[channels]
    return out


def test_the_views_and_their_order() -> None:
    assert VIEWS == ("original", "positive", "negative", "active", "inactive")


@pytest.mark.parametrize("channels", ["max", "sum", "l2"])
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("depth", [1, 3])
def test_equals_the_formulas_in_float64(channels: str, classes: int, depth: int) -> None:
    rng = torch.Generator().manual_seed(classes)
    field = torch.randn(classes, 3, depth, 4, 5, generator=rng, dtype=torch.float64)
    # Whole halves make ties and zeros frequent.
    field = (field * 2).round() / 2
    targets = [0, classes - 1, classes // 2]
    found = views(GivenField(field), torch.tensor(targets), VIEWS, channels=channels)
    for name in VIEWS:
        expected = reference(field, targets, name, channels)
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], expected, rtol=1e-15, atol=0)


def test_a_real_network_in_float64_equals_its_jacobian() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).double()
    images = torch.rand(3, 2, 6, 5, dtype=torch.float64)
    rows = [torch.autograd.functional.jacobian(model, image[None])[0, :, 0] for image in images]
    jacobian = torch.stack(rows, 1)
    targets = model(images).argmax(1)
    found = views(gradient(model, images), targets, VIEWS)
    for name in VIEWS:
        expected = reference(jacobian, targets.tolist(), name, "max")
        torch.testing.assert_close(found[name], expected, rtol=1e-13, atol=1e-15)


def test_piecewise_linear_net_has_the_active_pixels_one_can_count() -> None:
    """Logit c is the ReLU of pixel c alone, so each class's gradient is one lit pixel."""

    class OnePixelEach(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).relu() * torch.tensor([1.0, 2.0, -3.0, 4.0])

    images = torch.tensor([[[[0.5, 0.9], [0.2, 0.0]]]])
    # Gradients per class: (1,0,0,0), (0,2,0,0), (0,0,-3,0), and 0 for the dark fourth pixel.
    # Target 1: ahead of all rivals on pixel 1 only; pixel 2 is a tie with class 0, as elsewhere.
    found = views(gradient(OnePixelEach(), images), torch.tensor([1]), VIEWS)
    assert found["original"].tolist() == [[[0, 2], [0, 0]]]
    assert found["positive"].tolist() == [[[0, 2], [0, 0]]]
    assert found["negative"].tolist() == [[[0, 0], [0, 0]]]
    assert found["active"].tolist() == [[[0, 2], [0, 0]]]
    assert found["inactive"].tolist() == [[[0, 0], [0, 0]]]
    # Target 2: behind every rival on pixel 2, where its gradient is -3.
    found = views(gradient(OnePixelEach(), images), torch.tensor([2]), VIEWS)
    assert found["negative"].tolist() == [[[0, 0], [3, 0]]]
    assert found["inactive"].tolist() == [[[0, 0], [3, 0]]]
    assert found["active"].tolist() == [[[0, 0], [0, 0]]]


def test_exact_ties_are_neither_active_nor_inactive() -> None:
    field = torch.ones(3, 1, 1, 2, 2)
    found = views(GivenField(field), torch.tensor([0]), ["original", "active", "inactive"])
    assert found["original"].tolist() == [[[1, 1], [1, 1]]]
    assert found["active"].tolist() == found["inactive"].tolist() == [[[0, 0], [0, 0]]]


def test_one_class_has_no_rival() -> None:
    field = GivenField(torch.randn(1, 2, 3, 4, 4))
    found = views(field, torch.tensor([0, 0]), VIEWS)
    torch.testing.assert_close(found["active"], found["original"])
    torch.testing.assert_close(found["inactive"], found["original"])
    assert len(field.asked) == 1


@pytest.mark.parametrize("names", [["original"], ["original", "positive", "negative"]])
def test_one_question_unless_rivals_matter(names: list[str]) -> None:
    field = GivenField(torch.randn(6, 2, 3, 4, 4))
    views(field, torch.tensor([5, 2]), names)
    assert field.asked == [[5, 2]]


def test_all_five_ask_for_every_class_once() -> None:
    field = GivenField(torch.randn(6, 2, 3, 4, 4))
    views(field, torch.tensor([5, 2]), VIEWS)
    assert len(field.asked) == 6
    for row in range(2):
        assert sorted(asked[row] for asked in field.asked) == list(range(6))


def test_fields_held_at_once_do_not_grow_with_the_classes() -> None:
    most = []
    for classes in (3, 200):
        field = GivenField(torch.randn(classes, 1, 1, 2, 2))
        views(field, torch.tensor([0]), VIEWS)
        most.append(field.most_alive)
    # The target's, the rival at hand and the one before it.
    assert most[0] == most[1] <= 3


def test_competitors_are_the_top_scoring_other_classes() -> None:
    logits = torch.tensor([[5.0, 1.0, 4.0, 4.0, 0.0], [0.0, 9.0, 2.0, 3.0, 1.0]])
    field = GivenField(torch.randn(5, 2, 1, 2, 2), logits)
    views(field, torch.tensor([0, 4]), ["active"], competitors=2)
    assert field.asked == [[0, 4], [2, 1], [3, 3]]


@pytest.mark.parametrize("classes", [5, 17, 40, 1000])
def test_of_tied_competitors_the_lower_classes_are_taken(classes: int) -> None:
    """Also where there are so many that an unstable sort would shuffle them."""
    logits = torch.zeros(3, classes)
    logits[2, classes - 1] = 1.0
    field = GivenField(torch.randn(classes, 3, 1, 1, 1), logits)
    views(field, torch.tensor([0, 2, 1]), ["inactive"], competitors=3)
    assert field.asked == [[0, 2, 1], [1, 0, classes - 1], [2, 1, 0], [3, 3, 2]]


@pytest.mark.parametrize("competitors", [4, 5, 100])
def test_as_many_competitors_as_there_are_is_all(competitors: int) -> None:
    field = torch.randn(5, 2, 3, 4, 4)
    targets = torch.tensor([1, 3])
    some = views(GivenField(field), targets, VIEWS, competitors=competitors)
    every = views(GivenField(field), targets, VIEWS)
    for name in VIEWS:
        torch.testing.assert_close(some[name], every[name], rtol=0, atol=0)


def test_active_among_few_contains_active_among_all() -> None:
    field = torch.randn(8, 2, 3, 6, 6)
    targets = torch.tensor([1, 3])
    every = views(GivenField(field), targets, ["active"])["active"]
    few = views(GivenField(field), targets, ["active"], competitors=3)["active"]
    assert bool((few >= every).all())
    assert bool((few > every).any())


def test_order_and_dtype_of_the_answer() -> None:
    field = GivenField(torch.randn(3, 2, 3, 4, 4, dtype=torch.bfloat16))
    found = views(field, torch.tensor([0, 1]), ["inactive", "original"])
    assert list(found) == ["inactive", "original"]
    assert all(view.dtype == torch.float32 for view in found.values())


def test_mistakes_are_named() -> None:
    field, targets = GivenField(torch.randn(3, 1, 1, 2, 2)), torch.tensor([0])
    with pytest.raises(UserError, match=r"`view.names`.*Did you mean 'active'"):
        views(field, targets, ["actve"])
    with pytest.raises(UserError, match=r"`view.channels` to be one of max, sum, l2"):
        views(field, targets, ["active"], channels="mean")
    with pytest.raises(UserError, match=r"`view.competitors`.*got 0"):
        views(field, targets, ["active"], competitors=0)
    for wrong in (2.5, 2.0, "2", True):
        with pytest.raises(UserError, match=r"`view.competitors` to be null or a whole number"):
            views(field, targets, ["active"], competitors=wrong)


def test_targets_may_be_a_list_or_one_for_all() -> None:
    field = GivenField(torch.randn(3, 2, 1, 2, 2))
    expected = views(field, torch.tensor([1, 1]), VIEWS, competitors=1)
    for targets in (1, [1, 1]):
        found = views(field, targets, VIEWS, competitors=np.int64(1))
        assert all(torch.equal(found[view], expected[view]) for view in VIEWS)
    with pytest.raises(UserError, match=r"`targets` to be in \[0, 3\), but got \[3, 3\]"):
        views(field, 3, ["original"])
