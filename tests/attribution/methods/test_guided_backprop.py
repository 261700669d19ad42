from __future__ import annotations

import copy

import captum.attr
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.guided_backprop import (
    DeconvReLU,
    GuidedReLU,
    deconvnet,
    guided_backprop,
    relu_rule,
)
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")

FORWARD = torch.tensor([[1.0, 0.0], [-1.0, -10.0]], dtype=torch.float64)
BACKWARD = torch.tensor([[0.4, 1.1], [-0.5, -0.1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (lambda x, ceiling: x.relu(), [[0.4, 0.0], [0.0, 0.0]]),
        (DeconvReLU.apply, [[0.4, 1.1], [0.0, 0.0]]),
        (GuidedReLU.apply, [[0.4, 0.0], [0.0, 0.0]]),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_example_of_the_deconvnet_chapter(rule, expected, inplace):
    model = nn.ReLU(inplace=inplace)
    x = FORWARD.clone().requires_grad_(True)
    with relu_rule(rule, "example"):
        y = model(x.clone())
    assert torch.equal(y, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    (slope,) = torch.autograd.grad(y, x, BACKWARD)
    assert torch.equal(slope, torch.tensor(expected))


def test_rules_by_hand_on_two_layers():
    torch.manual_seed(5)
    first, second = nn.Linear(6, 9), nn.Linear(9, 3)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)
    x = torch.randn(2, 1, 2, 3)
    target = torch.tensor([2, 0])
    hidden = x.flatten(1) @ first.weight.T + first.bias
    arriving = second.weight[target]
    by_deconvnet = arriving.clamp(min=0) @ first.weight
    by_guided = (arriving.clamp(min=0) * (hidden > 0)) @ first.weight
    assert torch.allclose(deconvnet(model, x).of(target).flatten(1), by_deconvnet)
    assert torch.allclose(guided_backprop(model, x).of(target).flatten(1), by_guided)


@pytest.mark.parametrize(
    "call",
    [
        nn.ReLU6(),
        nn.ReLU6(inplace=True),
        F.relu6,
        lambda x: F.hardtanh(x, 0, 6),
        lambda x: F.hardtanh_(x, min_val=0.0, max_val=6.0),
        lambda x: x.clamp(0, 6),
        lambda x: torch.clamp(x, min=0, max=6),
    ],
)
def test_a_relu_with_a_ceiling_by_hand(call):
    """What is above the ceiling came from no slope: guided keeps it out, DeconvNet does not ask."""
    x = torch.tensor([-2.0, 0.5, 5.9, 6.0, 7.0], requires_grad=True)
    arriving = torch.tensor([1.0, -2.0, 3.0, 4.0, 5.0])
    for rule, expected in [
        (GuidedReLU.apply, [0.0, 0.0, 3.0, 0.0, 0.0]),
        (DeconvReLU.apply, [1.0, 0.0, 3.0, 4.0, 5.0]),
    ]:
        with relu_rule(rule, "example"):
            y = call(x + 0)
        assert y.tolist() == [0.0, 0.5, 5.9, 6.0, 6.0]
        assert torch.autograd.grad(y, x, arriving)[0].tolist() == expected


@pytest.mark.parametrize("call", [F.hardtanh, lambda x: F.hardtanh(x, -1, 6)])
def test_a_hardtanh_below_zero_is_another_activation(call):
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(UserError, match=r"\(hardtanh\)"), relu_rule(GuidedReLU.apply, "example"):
        call(torch.relu(x))


def test_a_hardtanh_without_its_ceiling_ends_at_one():
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    with relu_rule(GuidedReLU.apply, "example"):
        assert F.hardtanh(x, 0).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("source", "peer"),
    [(deconvnet, captum.attr.Deconvolution), (guided_backprop, captum.attr.GuidedBackprop)],
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_captum_agrees_where_it_can(source, peer, relu_net, images, classes):
    out_of_place = copy.deepcopy(relu_net)
    for module in out_of_place:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = peer(out_of_place).attribute(images.clone().requires_grad_(True), target=classes)
    assert torch.allclose(source(relu_net, images).of(classes), expected)


@pytest.mark.parametrize("source", [deconvnet, guided_backprop])
def test_a_reused_module_is_as_good_as_three(source, residual_net, images, classes):
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = residual_net
            self.one, self.two, self.three = nn.ReLU(), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            x = self.one(self.net.first(x))
            x = self.two(self.net.second(x) + x)
            x = self.three(self.net.second(x) + 0.5 * x)
            return self.net.third(x.mean((2, 3)))

    residual_net.relu = nn.ReLU(inplace=True)
    used = source(residual_net, images).of(classes)
    assert torch.allclose(used, source(Unrolled(), images).of(classes))
    assert not torch.allclose(used, gradient(residual_net, images).of(classes))


class Functional(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.relu, self.head = nn.ReLU(), nn.Linear(4, 4)
        self.call = call

    def forward(self, x):
        return self.head(self.call(self.relu(self.layer(x)) - 0.1).mean((2, 3)))


@pytest.mark.parametrize("source", [deconvnet, guided_backprop])
@pytest.mark.parametrize(
    "call",
    [
        F.relu,
        torch.relu,
        lambda x: x.relu_(),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp_(min=0),
        lambda x: torch.clamp_min(x, 0),
        lambda x: x.clip(min=0),
        lambda x: x.clip_(0),
        lambda x: torch.clip(input=x, min=0),
    ],
)
def test_a_relu_called_as_a_function_obeys_too(source, call, images, classes):
    torch.manual_seed(0)
    called = Functional(call)
    expected = copy.deepcopy(called)
    expected.call = nn.ReLU()
    found = source(called, images).of(classes)
    assert torch.equal(found, source(expected, images).of(classes))
    assert not torch.equal(found, gradient(called, images).of(classes))


def test_a_clamp_that_is_no_relu_passes_its_gradient(images, classes):
    torch.manual_seed(0)
    clamped = Functional(lambda x: x.clamp(min=-1e9))
    bare = Functional(lambda x: x)
    bare.load_state_dict(clamped.state_dict())
    assert torch.equal(
        guided_backprop(clamped, images).of(classes), guided_backprop(bare, images).of(classes)
    )


@pytest.mark.parametrize("source", [deconvnet, guided_backprop])
def test_other_activations_are_refused(source, images):
    torch.set_default_dtype(torch.float32)
    convnext = timm.create_model("convnext_atto", num_classes=4)
    with pytest.raises(UserError, match=r"but got none \(its activations are gelu\)"):
        source(convnext, torch.rand(1, 3, 32, 32))
    mixed = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.SiLU(), nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(UserError, match=r"activations of other kinds as well \(silu\)"):
        source(mixed, images.float())
    bare = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(UserError, match=r"but got none\.$"):
        source(bare, images.float())


@pytest.mark.parametrize("source", [deconvnet, guided_backprop])
@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda x: torch.where(x > 0, x, 0.0), "where by a comparison"),
        (lambda x: torch.where(x.detach() > 0, x, 0.1 * x), "where by a comparison"),
        (lambda x: torch.maximum(x, torch.zeros_like(x)), "maximum"),
        (lambda x: torch.max(x, 0.1 * x), "max"),
        (lambda x: -torch.minimum(-x, x.new_zeros(())), "minimum"),
        (lambda x: x.clamp(min=torch.zeros(())), "clamp"),
        (lambda x: x * (x > 0), "mul by a comparison"),
        (lambda x: (x >= 0).to(x.dtype) * x, "mul by a comparison"),
        (lambda x: x * (1 - torch.lt(x, 0).double()), "mul by a comparison"),
        (lambda x: x.masked_fill(x < 0, 0), "masked_fill by a comparison"),
        (lambda x: (x + x.abs()) / 2, "abs"),
    ],
)
def test_relus_by_hand_are_refused(source, call, found, images):
    """They would pass as the plain gradient beside the one ReLU that is treated."""
    torch.manual_seed(0)
    model = Functional(call)
    with pytest.raises(UserError, match=rf"activations of other kinds as well \({found}\)\.?"):
        source(model, images)


def test_what_only_looks_like_a_relu_by_hand_passes(images, classes):
    """Masks of constants, products with them, pools of one tensor, gates: no rule is due."""

    def call(x):
        left = torch.arange(x.shape[-1]) < 3
        x = torch.where(left, x, 0.5 * x).masked_fill(~left, 0.2) * (torch.ones_like(x) > 0)
        return x * torch.sigmoid(x) + x.amax(1, keepdim=True) + x.max(3, keepdim=True)[0].max()

    torch.manual_seed(0)
    assert guided_backprop(Functional(call), images).of(classes).abs().sum() > 0


def test_a_refusal_leaves_no_hooks(images):
    model = Functional(F.gelu)
    with pytest.raises(UserError):
        guided_backprop(model, images)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.relu(FORWARD), FORWARD.clamp(min=0))
