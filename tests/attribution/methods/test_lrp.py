from __future__ import annotations

from functools import partial

import captum.attr
import pytest
import timm
import torch
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from saliency_lab.attribution.methods.gradient_x_input import gradient_x_input
from saliency_lab.attribution.methods.lrp import lrp, lrp_epsilon
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")


def _relevance_of_inputs(weight, bias, activations, relevance, epsilon, relative):
    """Bach et al. 2015, equation 58, entry by entry."""
    z = [
        sum(float(activations[j] * weight[k, j]) for j in range(len(activations))) + float(bias[k])
        for k in range(len(bias))
    ]
    if relative:
        epsilon *= (sum(value**2 for value in z) / len(z)) ** 0.5
    received = [0.0] * len(activations)
    for k, value in enumerate(z):
        stabilised = value + (epsilon if value >= 0 else -epsilon)
        for j in range(len(activations)):
            received[j] += float(activations[j] * weight[k, j]) / stabilised * relevance[k]
    return received, z


@pytest.mark.parametrize(("scale", "epsilon"), [("absolute", 0.3), ("rms", 0.25)])
def test_equation_by_entries(scale, epsilon):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)]
    model = nn.Sequential(
        nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(inplace=True), layers[2]
    )
    images = torch.rand(1, 1, 2, 3)
    activations = [images.flatten()]
    for layer in layers[:2]:
        activations.append(layer(activations[-1]).relu().detach())
    logits = layers[2](activations[-1])
    relevance = [0.0, logits[1].item(), 0.0]
    for layer, activation in zip(reversed(layers), reversed(activations), strict=True):
        relevance, _ = _relevance_of_inputs(
            layer.weight, layer.bias, activation, relevance, epsilon, scale == "rms"
        )
    found = lrp_epsilon(model, images, epsilon=epsilon, scale=scale).of(torch.tensor([1]))
    assert torch.allclose(found.flatten(), torch.tensor(relevance))


@pytest.mark.filterwarnings("ignore:Input Tensor 0")
def test_captum_agrees_on_a_chain(images, classes):
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
            self.one, self.two = nn.ReLU(), nn.ReLU()
            self.head = nn.Linear(80, 4)

        def forward(self, x):
            x = self.two(self.second(self.one(self.first(x))))
            return self.head(x.flatten(1))

    chain = Chain()
    for layer in (chain.first, chain.second, chain.head):
        layer.rule = EpsilonRule(epsilon=0.1)
    expected = captum.attr.LRP(chain).attribute(images.clone(), target=classes)
    found = lrp_epsilon(chain, images, epsilon=0.1, scale="absolute").of(classes)
    assert torch.allclose(found, expected)


def test_tiny_epsilon_is_gradient_times_input(relu_net, images, classes):
    found = lrp_epsilon(relu_net, images, epsilon=1e-12, scale="absolute").of(classes)
    assert torch.allclose(found, gradient_x_input(relu_net, images).of(classes))
    default = lrp_epsilon(relu_net, images).of(classes)
    assert not torch.allclose(found, default, rtol=1e-2)


def test_relevance_is_kept_without_biases(residual_net, images, classes):
    field = lrp_epsilon(residual_net, images, epsilon=1e-12, scale="absolute")
    assert torch.allclose(
        field.of(classes).flatten(1).sum(1), field.logits.gather(1, classes[:, None])[:, 0]
    )


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(inplace=True), nn.Tanh()])
def test_activations_pass_relevance_on(activation, images, classes):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), activation, nn.Flatten(), nn.Linear(216, 4, bias=False)
    )
    field = lrp_epsilon(model, images, epsilon=1e-12, scale="absolute")
    assert torch.allclose(
        field.of(classes).flatten(1).sum(1), field.logits.gather(1, classes[:, None])[:, 0]
    )


def test_what_has_no_rule_is_refused(images):
    torch.set_default_dtype(torch.float32)
    convnext = timm.create_model("convnext_atto", num_classes=4)
    with pytest.raises(UserError, match="got layer_norm, for which lrp_epsilon has none"):
        lrp_epsilon(convnext, torch.rand(1, 3, 32, 32))
    gated = timm.create_model("seresnet18", num_classes=4)
    with pytest.raises(UserError, match="got sigmoid") as caught:
        lrp_epsilon(gated, torch.rand(1, 3, 32, 32))
    assert "\n" not in str(caught.value)

    class Product(nn.Module):
        def forward(self, x):
            return (x * x).mean((2, 3))

    with pytest.raises(UserError, match="got mul of two activations"):
        lrp_epsilon(Product(), images)

    class Quotient(nn.Module):
        def forward(self, x):
            return ((x * 2 + 1) / 3).mean((2, 3)) / (1 + x.mean())

    with pytest.raises(UserError, match="div"):
        lrp_epsilon(Quotient(), images)


def test_batch_statistics_are_refused(images):
    model = nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 2)
    )
    with pytest.raises(UserError, match="batch_norm"):
        lrp_epsilon(model, images)


@pytest.mark.parametrize("scale", ["rms", "absolute"])
def test_folding_batch_norm_changes_nothing(scale, relu_net, images, classes):
    folded = nn.Sequential(fuse_conv_bn_eval(relu_net[0], relu_net[1]), *relu_net[2:])
    found = lrp_epsilon(relu_net, images, scale=scale).of(classes)
    assert torch.allclose(found, lrp_epsilon(folded, images, scale=scale).of(classes))


def test_in_place_activations_are_as_good(images, classes):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Flatten(), nn.Linear(96, 4))

    def of(inplace):
        one, two = nn.LeakyReLU(0.1, inplace=inplace), nn.ReLU6(inplace=inplace)
        return lrp_epsilon(nn.Sequential(layers[0], one, layers[1], two, *layers[2:]), images).of(
            classes
        )

    assert torch.equal(of(True), of(False))


def _batch_norm(channels):
    layer = nn.BatchNorm2d(channels)
    layer.running_mean.normal_(0, 0.3)
    layer.running_var.uniform_(0.5, 1.5)
    return layer


class _PreActivation(nn.Module):
    """Batch norms behind a ReLU and a sum, each either in place or not."""

    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=in_place)
        self.norms = nn.ModuleList([_batch_norm(6), _batch_norm(6), _batch_norm(6)])
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        start = self.norms[0](self.relu(self.first(images)))
        found = self.norms[1](self.second(start))
        if self.in_place:
            found += start
        else:
            found = found + start
        scaled = self.second(found)
        scaled = scaled.mul_(0.5) if self.in_place else scaled * 0.5
        return self.head(self.norms[2](scaled).mean((2, 3)))


@pytest.mark.parametrize(
    "source",
    [
        lrp_epsilon,
        partial(lrp, rule="z_plus"),
        partial(lrp, rule="gamma"),
        partial(lrp, composite="epsilon_plus"),
    ],
)
def test_a_batch_norm_behind_what_is_overwritten_is_not_the_layers(source):
    images, classes = torch.rand(2, 3, 9, 11), torch.tensor([1, 3])
    plain, in_place = (_PreActivation(kind).eval() for kind in (False, True))
    expected, found = source(plain, images), source(in_place, images)
    torch.testing.assert_close(found.logits, plain(images).detach())
    torch.testing.assert_close(found.of(classes), expected.of(classes))


def test_an_input_that_is_overwritten_later_is_what_the_layer_saw():
    class Overwrites(nn.Module):
        def __init__(self, in_place):
            super().__init__()
            torch.manual_seed(0)
            self.in_place = in_place
            self.first, self.second = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1)
            self.head = nn.Linear(5, 3)

        def forward(self, images):
            start = self.first(images)
            found = self.second(start)
            total = start.add_(found) if self.in_place else start + found
            return self.head(total.mean((2, 3)))

    images, classes = torch.rand(2, 3, 5, 4), torch.tensor([0, 2])
    found, expected = (
        lrp(Overwrites(kind), images, rule="z_plus").of(classes) for kind in (True, False)
    )
    torch.testing.assert_close(found, expected)


def test_a_box_is_found_in_inference_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 12, 3))
    images = torch.rand(2, 3, 5, 6)
    expected = lrp(model, images, rule="z_box").of(torch.tensor([0, 1]))
    with torch.inference_mode():
        found = lrp(model, images, rule="z_box").of(torch.tensor([0, 1]))
    torch.testing.assert_close(found, expected)


def test_a_black_image_gets_no_relevance_where_denormals_are_flushed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(),
                          nn.Linear(4 * 12, 3, bias=False))  # fmt: skip
    torch.set_flush_denormal(True)
    try:
        found = lrp_epsilon(model, torch.zeros(1, 3, 5, 6)).of(torch.tensor([0]))
    finally:
        torch.set_flush_denormal(False)
    assert (found == 0).all()
