"""Borrowed models come back as they were."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
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
from saliency_lab.models.own_network import Graph


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


class Merging(nn.Linear):
    """A layer with an addition to its weight, which it holds apart while it trains."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.addition = nn.Parameter(torch.ones(2, 2))
        self.merged = False
        self.calls: list[bool] = []

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        self.calls.append(mode)
        if self.merged == mode:
            with torch.no_grad():
                self.weight.add_(self.addition, alpha=-1 if mode else 1)
            self.merged = not mode
        return self


def test_layers_that_merge_weights_part_them_again() -> None:
    model = nn.Sequential(Merging(), nn.Sequential(Merging()))
    for layer in (model[0], model[1][0]):
        nn.init.ones_(layer.weight)  # what is added and taken away leaves no rounding
    model.train()
    model[0].eval()
    model[0].calls.clear()
    with frozen(model):
        assert model[0].merged
        assert model[1][0].merged
        assert model[1][0].weight.tolist() == [[2, 2], [2, 2]]
    assert (model[0].merged, model[1][0].merged) == (True, False)
    assert model[1][0].weight.tolist() == [[1, 1], [1, 1]]
    assert (model[0].training, model[1][0].training, model.training) == (False, True, True)
    assert model[0].calls == [False]  # not moved in between


def test_an_exported_program_is_told_how_to_be_given() -> None:
    images = torch.rand(2, 3, 2, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    program = torch.export.export(network, (images,)).module()
    beside = nn.Dropout()
    for model in (program, nn.Sequential(beside, program)):
        with pytest.raises(UserError, match=r"an exported program, .*own_network\.Graph"):
            sl.explain(model, images)
    assert beside.training
    torch.testing.assert_close(
        sl.explain(Graph(program), images, "original"), sl.explain(network, images, "original")
    )


class Normed(nn.Module):
    """A norm's map (B, 4, H, W) as tokens, whose gradients are laid out as tokens are, or flat.

    Args:
        kind: how the norm is called.
        inplace: overwrite the norm's result.
    """

    def __init__(self, kind: str, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.InstanceNorm2d(4) if kind == "instance" else nn.BatchNorm2d(4)
        self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.5
        self.head, self.kind, self.inplace = nn.Linear(4, 3), kind, inplace
        self.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.kind == "function":
            normed = F.batch_norm(images, self.norm.running_mean, self.norm.running_var)
        else:
            normed = self.norm(images)
        if self.inplace:
            normed.mul_(2)
        if self.kind == "flat":
            return normed.flatten(1).contiguous().tanh()
        # Tokens first, as `nn.MultiheadAttention` computes.
        return self.head(normed.flatten(2).permute(2, 0, 1).contiguous()).tanh().mean(0)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", ["module", "flat", "function", "instance", "exported"])
@pytest.mark.parametrize("shape", [(1, 4, 3, 2), (2, 4, 1, 5), (2, 4, 3, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (2, 3, 0, 1)])
def test_gradients_behind_norms_are_central_differences(
    kind: str, inplace: bool, shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    images = torch.randn(shape, dtype=torch.float64).permute(order).contiguous()
    images = images.permute([order.index(axis) for axis in range(4)])  # so they lie in memory
    model = Normed(kind, inplace).eval()
    with frozen(model):
        asked = torch.export.export(model, (images,)).module() if kind == "exported" else model
        start = images.clone().requires_grad_(True)
        (found,) = torch.autograd.grad(asked(start).sum(), start)
    for place in torch.randint(images.numel(), (6,)).tolist():
        step = torch.zeros(images.numel(), dtype=torch.float64)
        step[place] = 1e-6
        step = step.view(shape)
        rise = (model(images + step) - model(images - step)).sum() / 2e-6
        assert found.flatten()[place].item() == pytest.approx(rise.item(), abs=1e-7)


def test_the_hooks_of_norms_keep_no_graph() -> None:
    model, images = Normed("module").eval(), torch.rand(1, 4, 3, 2, dtype=torch.float64)
    seen: list[weakref.ref[torch.Tensor]] = []
    model.norm.register_forward_hook(lambda _module, _inputs, out: seen.append(weakref.ref(out)))
    gc.disable()
    try:
        with frozen(model):
            model(images.requires_grad_(True))
        assert [one() for one in seen] == [None]
    finally:
        gc.enable()


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
