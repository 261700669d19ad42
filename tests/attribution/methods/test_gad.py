from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import saliency_lab as sl
from saliency_lab.attribution.core.importance import important_pixels
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.gad import SupportModels, gad, needs_support
from saliency_lab.attribution.methods.smoothgrad import smoothgrad, vargrad
from saliency_lab.errors import UserError


def linear(*weights):
    """A model of one channel whose gradients are these weights, the negative for class 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weights), 2, bias=False))
    weight = torch.tensor(weights)
    model[1].weight.data = torch.stack([weight, -weight])
    return model


MODEL = linear(4.0, -3.0, 2.0, 1.0)
IMAGE = torch.rand(1, 1, 2, 2)


def test_pixels_important_to_all_are_kept_with_the_originals_values():
    # Upper halves: {0, 1}, {1, 2}, {1, 3}.
    networks = SupportModels([linear(0.0, 5.0, -9.0, 1.0), linear(0.0, 8.0, 1.0, 9.0)])
    found = gad(MODEL, IMAGE, torch.tensor([0]), support=networks)
    assert found.tolist() == [[[0.0, 3.0], [0.0, 0.0]]]
    assert found.dtype == torch.float32


def test_with_networks_like_the_model_all_that_is_important_stays():
    alike = SupportModels([copy.deepcopy(MODEL)])
    found = gad(MODEL, IMAGE, torch.tensor([1]), support=alike)
    assert found.tolist() == [[[4.0, 3.0], [0.0, 0.0]]]
    most = gad(MODEL, IMAGE, torch.tensor([1]), support=alike, level=0.4, rule="above")
    assert most.tolist() == [[[4.0, 3.0], [2.0, 0.0]]]


def test_a_random_base_draws_the_same_for_every_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2))
    images = torch.rand(2, 1, 6, 6)
    base = partial(smoothgrad, samples=2)
    targets, generator = torch.tensor([0, 1]), SampleGenerator(5, ["a", "b"])
    # Against itself, whatever the noise, all that is important stays.
    found = gad(model, images, targets, support=SupportModels([copy.deepcopy(model)]),
                base=base, generator=generator)  # fmt: skip
    assert ((found > 0).sum((1, 2)) == 18).all()


def test_the_model_among_its_support_models_and_equal_ones_are_asked_once():
    asked = []
    model, other = (linear(4.0, -3.0, 2.0, 1.0) for _ in range(2))
    for name, network in (("model", model), ("other", other)):
        network.register_forward_hook(lambda *_, name=name: asked.append(name))
    targets = torch.tensor([0])
    found = gad(model, IMAGE, targets, support=SupportModels([model, other, other, model]))
    once = list(asked)
    asked.clear()
    assert torch.equal(found, gad(model, IMAGE, targets, support=SupportModels([other])))
    assert once == asked
    assert set(once) == {"model", "other"}


def test_it_is_a_method_of_the_python_face():
    method = partial(gad, support=SupportModels([MODEL]))
    assert sl.explain(MODEL, IMAGE, method)["gad"].shape == (1, 2, 2)
    with pytest.raises(UserError, match="`support` to hold the support models"):
        sl.explain(MODEL, IMAGE, "gad")


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="`base` to be a source of a signed field"):
        gad(MODEL, IMAGE, torch.tensor([0]), support=SupportModels([MODEL]), base=vargrad)
    assert needs_support(partial(gad, level=0.5))
    assert not needs_support(partial(gad, support=SupportModels([MODEL])))
    assert not needs_support(smoothgrad)


def test_importance_takes_ties_by_index_and_never_a_zero():
    maps = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 2.0]]])
    found = important_pixels(maps)
    assert found.tolist() == [[[True, True], [False, False]], [[False, False], [False, True]]]
    mask = maps > 0
    assert torch.equal(important_pixels(mask), mask)
