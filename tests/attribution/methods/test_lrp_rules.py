"""LRP's rules entry by entry, how they go together, and what they refuse."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from saliency_lab.attribution.core.completeness import completeness_error
from saliency_lab.attribution.methods.lrp import lrp, lrp_epsilon
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")

STABILISER = 1e-6


def _stable(z: float) -> float:
    return z + (STABILISER if z >= 0 else -STABILISER)


def _parts(x: list[float], w: list[float], b: float) -> tuple[list[float], list[float]]:
    """Contributions x_j w_j and the bias, the positive and the negative ones."""
    parts = [a * c for a, c in zip([*x, 1.0], [*w, b], strict=True)]
    return [max(p, 0.0) for p in parts], [min(p, 0.0) for p in parts]


def _alpha_beta(alpha: float):
    def shares(x, w, b):
        up, down = _parts(x, w, b)
        return [
            alpha * p / _stable(sum(up)) - (alpha - 1) * n / _stable(sum(down))
            for p, n in zip(up, down, strict=True)
        ][:-1]

    return shares


def _gamma(gamma: float):
    def shares(x, w, b):
        up, down = _parts(x, w, b)
        z = sum(up) + sum(down)
        own = [
            p * (1 + gamma * (z > 0)) + n * (1 + gamma * (z < 0))
            for p, n in zip(up, down, strict=True)
        ]
        return [part / _stable(sum(own)) for part in own][:-1]

    return shares


def _w_square(x, w, b):
    total = sum(one**2 for one in w) + b**2
    return [one**2 / _stable(total) for one in w]


def _flat(x, w, b):
    return [1 / _stable(len(w))] * len(w)


def _z_box(x, w, b):
    # Pixels lie in [0, 1]: z = Σ x w − 0 · w⁺ − 1 · w⁻.
    parts = [a * c - min(c, 0.0) for a, c in zip(x, w, strict=True)]
    return [part / _stable(sum(parts) + b - max(b, 0.0) - min(b, 0.0)) for part in parts]


SHARES = {
    "gamma": (_gamma(0.4), {"gamma": 0.4}),
    "alpha_beta": (_alpha_beta(3.0), {"alpha": 3.0}),
    "z_plus": (_alpha_beta(1.0), {}),
    "w_square": (_w_square, {}),
    "flat": (_flat, {}),
}


def _passed_down(shares, layer: nn.Linear, x: Tensor, relevance: list[float]) -> list[float]:
    received = [0.0] * layer.in_features
    for row, own, arriving in zip(
        layer.weight.tolist(), layer.bias.tolist(), relevance, strict=True
    ):
        for j, share in enumerate(shares(x.flatten().tolist(), row, own)):
            received[j] += share * arriving
    return received


@pytest.mark.parametrize("rule", [*SHARES, "z_box"])
def test_rules_by_entries(rule):
    torch.manual_seed(0)
    one, two = nn.Linear(6, 7), nn.Linear(7, 4)
    # Inputs of both signs in the second layer.
    model = nn.Sequential(nn.Flatten(), one, nn.Tanh(), two)
    image = torch.rand(1, 1, 2, 3)
    with torch.no_grad():
        hidden = one(image.flatten(1)).tanh()
        logit = float(two(hidden)[0, 2])
        start = [0.0, 0.0, logit, 0.0]
        if rule == "z_box":

            def epsilon(x, w, b):
                parts = [a * c for a, c in zip(x, w, strict=True)]
                z = sum(parts) + b
                return [part / (z + 0.1 * (1 if z >= 0 else -1)) for part in parts]

            upper, lower, settings = epsilon, _z_box, {"epsilon": 0.1, "scale": "absolute"}
        else:
            upper, settings = SHARES[rule]
            lower = upper
        expected = _passed_down(lower, one, image, _passed_down(upper, two, hidden, start))
    found = lrp(model, image, rule=rule, **settings).of(torch.tensor([2]))
    assert torch.allclose(found.flatten(), torch.tensor(expected), rtol=1e-8)


def test_the_default_is_lrp_epsilon_to_the_last_bit(relu_net, images, classes):
    expected = lrp_epsilon(relu_net, images, epsilon=0.25, scale="rms").of(classes)
    assert torch.equal(lrp(relu_net, images).of(classes), expected)


def test_sums_and_pools_share_in_proportion():
    class Sum(nn.Module):
        def forward(self, x):
            y = x * 2
            y += x.flip(3)
            return 0.3 - (0 - F.avg_pool2d(input=y, kernel_size=2).flatten(1)) - 0.6

    image = torch.rand(1, 1, 2, 2)
    total = (2 * image + image.flip(3)).sum()
    logit = total / 4 - 0.3
    found = lrp(Sum(), image, rule="z_plus").of(torch.tensor([0]))
    # What is shifted by a constant passes all its relevance on.
    assert torch.allclose(found, image * 3 / total * logit, rtol=1e-5)


@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_merging_a_batch_norm_changes_nothing(composite, relu_net, images, classes):
    folded = nn.Sequential(fuse_conv_bn_eval(relu_net[0], relu_net[1]), *relu_net[2:])
    found = lrp(relu_net, images, composite=composite)
    assert torch.allclose(found.logits, relu_net(images))
    expected = lrp(folded, images, composite=composite).of(classes)
    assert torch.allclose(found.of(classes), expected)
    assert expected.std() > 0


def test_bounds_of_the_box_are_those_of_the_normalised_pixels(plain_net, images, classes):
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(plain_net)

        def forward(self, x):
            return self.net((x - 0.4) / 0.2)

    # The same network with the normalisation inside its first layer is given pixels in [0, 1].
    inside = copy.deepcopy(plain_net)
    inside[0] = nn.Conv2d(3, 6, 3)
    inside[0].load_state_dict(plain_net[0].state_dict())
    outside = Normalised()
    outside.net[0].padding = (0, 0)
    outside.net[6] = inside[6] = nn.Linear(5, 4)
    with torch.no_grad():
        inside[0].bias -= 0.4 / 0.2 * inside[0].weight.sum((1, 2, 3))
        inside[0].weight /= 0.2
    assert torch.allclose(inside(images), outside(images))
    expected = lrp(inside, images, composite="epsilon_gamma_box").of(classes)
    found = lrp(outside, images, composite="epsilon_gamma_box").of(classes)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)


def test_relevance_is_kept_without_biases(residual_net, images, classes):
    # z⁺ in units whose inputs are all negative would lose what it cannot share.
    for composite in ("epsilon_plus", "epsilon_plus_flat"):
        field = lrp(residual_net, images, composite=composite, epsilon=1e-9, scale="absolute")
        missing = completeness_error(field, classes)
        logits = field.logits.gather(1, classes[:, None])[:, 0]
        assert (missing < 1e-3 * logits.abs()).all()


def test_what_is_refused(images):
    torch.set_default_dtype(torch.float32)
    images = images.float()
    convnext = timm.create_model("convnext_atto", num_classes=4)
    with pytest.raises(UserError, match="got layer_norm, for which lrp has none"):
        lrp(convnext, torch.rand(1, 3, 32, 32), composite="epsilon_plus")
    squared = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(UserError, match=r"Expected one of `method\.rule` and `method\.composite`"):
        lrp(squared, images, rule="flat", composite="epsilon_plus")

    class Product(nn.Module):
        def forward(self, x):
            return (x * x).mean((2, 3))

    with pytest.raises(UserError, match="got mul of 2 activations"):
        lrp(Product(), images, rule="flat")

    class Other(nn.Module):
        def forward(self, x):
            return torch.add(x, other=x.flip(3)).mean((2, 3))

    with pytest.raises(UserError, match="got add of 2 activations"):
        lrp(Other(), images, rule="flat")
    with pytest.raises(UserError, match="convolution or linear layer, but got none"):
        lrp(Product(), images, rule="z_box")


class _NormOfTokens(nn.Module):
    """A batch norm over 8 tokens (B, N, F) behind a linear layer, which has F outputs."""

    def __init__(self, features: int, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.linear = nn.Conv2d(3, 8, 4, 4), nn.Linear(4, features)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 4)
        for tensor in (*self.norm.parameters(), self.norm.running_mean):
            nn.init.normal_(tensor)
        self.apart = apart

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.linear(self.patches(x).flatten(2))
        # What a view gives is not known to be the layer's output, so nothing is merged.
        outputs = outputs.view_as(outputs) if self.apart else outputs
        return self.head(self.norm(outputs).relu().mean(2))


@pytest.mark.parametrize("settings", [{"rule": "gamma"}, {"composite": "epsilon_plus"}])
@pytest.mark.parametrize("features", [8, 12])
def test_a_batch_norm_over_tokens_is_not_merged_into_their_features(features, settings):
    images, classes = torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    found, expected = (
        lrp(_NormOfTokens(features, apart).eval(), images, **settings).of(classes)
        for apart in (False, True)
    )
    assert torch.equal(found, expected)
    assert expected.std() > 0


def test_a_batch_norm_of_a_linear_layers_outputs_is_merged():
    torch.manual_seed(0)
    linear, norm = nn.Linear(12, 5), nn.BatchNorm1d(5)
    for tensor in (*norm.parameters(), norm.running_mean):
        nn.init.normal_(tensor)
    folded = nn.Linear(12, 5)
    with torch.no_grad():
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        folded.weight.copy_(scale[:, None] * linear.weight)
        folded.bias.copy_(scale * (linear.bias - norm.running_mean) + norm.bias)
    rest = nn.Sequential(nn.ReLU(), nn.Linear(5, 3))
    images, classes = torch.rand(2, 3, 2, 2), torch.tensor([1, 2])
    found, expected = (
        lrp(nn.Sequential(nn.Flatten(), *layers, rest).eval(), images, rule="gamma").of(classes)
        for layers in ((linear, norm), (folded,))
    )
    assert torch.allclose(found, expected)


class Between(nn.Module):
    """A step between a convolution and a linear layer."""

    def __init__(self, step) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.step, self.last = nn.Conv2d(3, 2, 3), step, nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.step(self.first(x)).flatten(1))


@pytest.mark.parametrize("method", [lrp, lrp_epsilon])
@pytest.mark.parametrize(
    ("step", "in_other_words"),
    [
        (
            # Of 36 positions 8 bins, which overlap.
            lambda x: F.adaptive_avg_pool1d(x.flatten(2), 8),
            lambda x: torch.stack(
                [
                    x.flatten(2)[..., at * 36 // 8 : -(-(at + 1) * 36 // 8)].mean(-1)
                    for at in range(8)
                ],
                -1,
            ),
        ),
        (
            lambda x: F.unfold(x, 3, stride=1),
            lambda x: torch.stack(
                [x[..., i : i + 4, j : j + 4].flatten(2) for i in range(3) for j in range(3)], 2
            ).flatten(1, 2),
        ),
        (
            lambda x: x.unfold(3, 4, 2),
            lambda x: torch.stack([x[..., at : at + 4] for at in (0, 2)], 3),
        ),
        (
            lambda x: x.flatten(2).reshape_as(x.detach().mT.contiguous()),
            lambda x: x.flatten(2).reshape(x.shape),
        ),
    ],
)
def test_windows_and_pools_as_the_slices_they_are(step, in_other_words, method, images, classes):
    """Relevance of an entry that stands in several windows is the sum of what it has in each."""
    one, other = Between(step), Between(in_other_words)
    one(images), other(images)
    other.load_state_dict(one.state_dict())
    found, expected = (method(model, images).of(classes) for model in (one, other))
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found, expected, atol=1e-12)
