from __future__ import annotations

import captum.attr
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from saliency_lab.attribution.core.baselines import baseline_images
from saliency_lab.attribution.core.completeness import completeness_error
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.deeplift import deeplift
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.guided_backprop import guided_backprop
from saliency_lab.attribution.methods.lrp import lrp_epsilon
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks", "ignore:Input Tensor 0")
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_captum_agrees_where_it_is_complete(pool, images, classes):
    # Not with a max-pool beside a ReLU: there Captum's own convergence delta is far from 0.
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        pool,
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 4),
    )
    # A constant baseline would tie within every window of the pool.
    references = baseline_images(images, "uniform", SampleGenerator(0, "abc"))
    expected, delta = captum.attr.DeepLift(chain).attribute(
        images.clone(), references, target=classes, return_convergence_delta=True
    )
    assert delta.abs().max() < 1e-12
    found = deeplift(chain, images, baseline="uniform", generator=SampleGenerator(0, "abc"))
    assert torch.allclose(found.of(classes), expected)


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur", "uniform"])
@pytest.mark.parametrize("name", ["relu_net", "residual_net"])
def test_complete(baseline, name, request, images, classes):
    model = request.getfixturevalue(name)
    field = deeplift(model, images, baseline=baseline, generator=SampleGenerator(0, "abc"))
    assert completeness_error(field, classes).max() < 1e-10
    assert field.of(classes).abs().max() > 1e-4


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Softplus()])
def test_complete_for_smooth_activations(activation, images, classes):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), activation, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4)
    )
    field = deeplift(model, images)
    assert completeness_error(field, classes).max() < 1e-10


def test_multipliers_of_one_unit_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[2.0, -4.0]]))
        model[1].bias.fill_(1.0)
        model[3].weight.fill_(3.0)
    # At the image the unit is 2·0.5 − 4·0.75 + 1 = −1, at black 1: Δ = −2, of the ReLU −1.
    found = deeplift(model, torch.tensor([[[[0.5, 0.75]]]])).of(torch.tensor([0]))
    assert torch.allclose(found.flatten(), torch.tensor([0.5 * 2 * 0.5 * 3, 0.75 * -4 * 0.5 * 3]))


def test_no_difference_no_attribution(relu_net, classes):
    black = torch.zeros(3, 3, 8, 8)
    assert torch.equal(deeplift(relu_net, black).of(classes), black)


def test_slope_is_the_limit_of_the_ratio(images, classes):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(216, 5), nn.SiLU(), nn.Linear(5, 4)
    )
    slope = gradient(model, torch.ones_like(images)).of(classes)
    for near in (1e-4, 1e-9):
        close = 1 - near * images
        found = deeplift(model, close, baseline="white").of(classes) / (close - 1)
        assert torch.allclose(found, slope, rtol=1e-2, atol=1e-5)


def test_what_has_no_rule_is_refused():
    torch.set_default_dtype(torch.float32)
    convnext = timm.create_model("convnext_atto", num_classes=4)
    with pytest.raises(UserError, match="got layer_norm, for which deeplift has none") as caught:
        deeplift(convnext, torch.rand(1, 3, 32, 32))
    assert "\n" not in str(caught.value)
    gated = timm.create_model("seresnet18", num_classes=4)
    with pytest.raises(UserError, match="got mul of two activations"):
        deeplift(gated, torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("source", [deeplift, lrp_epsilon, guided_backprop])
def test_custom_functions_are_refused(source, images):
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.maximum(2 * x, torch.zeros_like(x))

        @staticmethod
        def backward(ctx, arriving):
            return arriving

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(Fused.apply(x)).mean((2, 3))

    with pytest.raises(UserError, match=r"got the custom function Fused\.$"):
        source(Model(), images)


def test_rows_that_are_not_images_are_refused():
    class TokensFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.inward, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, images):
            tokens = images.mean(1).permute(1, 0, 2)  # (H, B, W)
            return self.out(F.gelu(self.inward(tokens)).mean(0))

    with pytest.raises(UserError, match="got gelu on a tensor whose first dimension is not the"):
        deeplift(TokensFirst(), torch.rand(2, 3, 5, 4))
