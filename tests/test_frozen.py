"""Borrowed models come back as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

import saliency_lab as sl
from saliency_lab.errors import UserError
from saliency_lab.frozen import (
    bare_copy,
    checked_logits,
    frozen,
    intact_logits,
    placed_images,
    unshared,
)


def test_mode_and_flags_come_back_one_by_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    model.train()
    model[1][0].eval()
    model[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError, match="shapes"), frozen(model):
        model(torch.rand(2, 3))
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


@pytest.mark.parametrize("kind", ["plain", "fast", "bf16", "field"])
def test_an_enclosing_autocast_changes_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    images = torch.rand(2, 3, 8, 8)
    methods = ("active", "occlusion", "rise", "grad_cam", "lrp")

    def found() -> dict[str, torch.Tensor]:
        if kind == "field":
            return {"field": sl.gradient(model, images).of(torch.tensor([1, 2]))}
        if kind == "plain":
            return sl.explain(model, images, methods)
        fast = sl.prepared(model, images, precision="bf16" if kind == "bf16" else "fp32")
        return {**sl.explain(fast, images, methods), "logits": fast.logits(images)}

    expected = found()
    with torch.autocast("cpu", torch.bfloat16):
        inside = found()
        assert (images.flatten(2) @ images.flatten(2).mT).dtype == torch.bfloat16
    for name, values in expected.items():
        assert inside[name].dtype == values.dtype == torch.float32
        assert torch.equal(inside[name], values), name


def test_intact_logits_are_those_of_eval_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 3)).train()
    images = torch.rand(2, 3, 2, 2)
    found = intact_logits(model, images)
    torch.testing.assert_close(found, model[2](images.flatten(1)).detach())
    assert not found.requires_grad
    assert model.training


def test_images_take_the_models_dtype() -> None:
    images = torch.rand(2, 3, 2, 2)
    assert placed_images(nn.Linear(2, 2).double(), images).dtype == torch.float64
    assert placed_images(nn.ReLU(), images).dtype == torch.float32


@pytest.mark.parametrize("images", [torch.zeros(3, 2, 2), torch.zeros(1, 3, 2, 2, dtype=torch.int)])
def test_what_is_no_batch_of_images_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(UserError, match="Expected `images`"):
        placed_images(nn.ReLU(), images)


@pytest.mark.parametrize("logits", [torch.zeros(2), torch.zeros(3, 4), (torch.zeros(2, 4),)])
def test_what_is_no_logits_is_refused(logits: object) -> None:
    with pytest.raises(UserError, match="Expected `model` to return logits"):
        checked_logits(logits, 2)


def computing(kind: str) -> nn.Linear:
    """A layer whose weight a hook of PyTorch's computes before every forward."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    if kind == "weight_norm":
        weight_norm(layer)
    elif kind == "spectral_norm":
        spectral_norm(layer)
    else:
        prune.random_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    ("kind", "parameter"),
    [("weight_norm", "weight_g"), ("spectral_norm", "weight_orig"), ("prune", "weight_orig")],
)
def test_a_copy_computes_its_weights_as_the_model_does(kind: str, parameter: str) -> None:
    model, images = computing(kind).eval(), torch.rand(2, 4)
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    expected = model(images)  # leaves a weight behind that has a graph
    copied = bare_copy(model)
    torch.testing.assert_close(copied(images), expected)
    assert calls == [1]
    # The hooks see the copy's parameters, and what they compute stays with the copy.
    with torch.no_grad():
        copied.get_parameter(parameter).add_(1)
    assert not torch.allclose(copied(images), expected)
    torch.testing.assert_close(model(images), expected)
    # As the last forward left it: for copies whose layers are only read.
    torch.testing.assert_close(bare_copy(model, computing=False)(images), expected)


def test_what_a_conversion_left_as_it_was_is_copied() -> None:
    images = torch.rand(2, 1, 3, 3)
    same = unshared(images.contiguous(memory_format=torch.channels_last), images)
    assert torch.equal(same, images)
    assert same.data_ptr() != images.data_ptr()
    other = images.double()
    assert unshared(other, images) is other
