from __future__ import annotations

import captum.attr
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import saliency_lab.models.basic_cnn  # noqa: F401  (registers basic_cnn with timm)
from saliency_lab.attribution.core.layers import chosen_layer, output_shapes
from saliency_lab.attribution.methods.grad_cam import grad_cam, guided_grad_cam
from saliency_lab.attribution.methods.guided_backprop import guided_backprop
from saliency_lab.errors import UserError
from saliency_lab.models.network import network

pytestmark = pytest.mark.usefixtures("float64")


def test_pooled_linear_head_by_hand(images, classes):
    torch.manual_seed(0)
    features = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    head = nn.Linear(5, 4)
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    maps = features(images).detach()
    # The mean slope of a mean over n positions is w / n.
    cam = (head.weight[classes][:, :, None, None] / maps[0, 0].numel() * maps).sum(1).relu()
    expected = F.interpolate(cam[:, None], size=(8, 8), mode="bilinear")[:, 0]
    found = grad_cam(model, images, classes)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected.detach().float())
    assert found.max() > 0


def test_captum_agrees(plain_net, images, classes):
    captum_cam = captum.attr.LayerGradCam(plain_net, plain_net[4])
    expected = captum_cam.attribute(images, target=classes, relu_attributions=True)
    expected = F.interpolate(expected, size=(8, 8), mode="bilinear")[:, 0]
    found = grad_cam(plain_net, images, classes)
    assert torch.allclose(found, expected.detach().float(), atol=1e-7)
    guided = guided_grad_cam(plain_net, images).of(classes)
    product = guided_backprop(plain_net, images).of(classes) * expected[:, None]
    assert torch.allclose(guided, product)


def test_a_layer_before_an_in_place_one_keeps_its_own_output(relu_net, images, classes):
    norm = relu_net[:2](images)
    slope = torch.autograd.grad(
        relu_net[3:](relu_net[2](norm.clone())).gather(1, classes[:, None]).sum(), norm
    )[0]
    cam = (slope.mean((2, 3), keepdim=True) * norm).sum(1).relu()
    assert torch.allclose(grad_cam(relu_net, images, classes, layer="1"), cam.detach().float())


@pytest.mark.parametrize(
    ("name", "side", "layer", "extent"),
    [
        ("basic_cnn", 64, "blocks", (2, 2)),
        ("basic_cnn", 32, "blocks.2.1", (2, 2)),
        ("resnet18", 224, "layer4", (7, 7)),
        ("resnet18", 32, "layer3", (2, 2)),
        ("vgg11", 64, "features", (2, 2)),
        ("convnext_atto", 224, "norm_pre", (7, 7)),
        ("convnext_tiny", 32, "stages.3.downsample.0", (2, 2)),
    ],
)
def test_layer_is_found(name, side, layer, extent):
    torch.set_default_dtype(torch.float32)
    settings = {"mlp_ratio": 0.01} if name == "vgg11" else {}
    model = timm.create_model(name, num_classes=3, **settings)
    images = torch.rand(1, 3, side, side)
    assert chosen_layer(model, images, None) == layer
    assert dict(output_shapes(model, images))[layer][2:] == extent


def test_a_reused_module_counts_at_its_last_place(residual_net, images, classes):
    """One ReLU runs three times, and its last output is the last one before the mean."""
    assert [name for name, _ in output_shapes(residual_net, images)] == [
        "first",
        "second",
        "relu",
        "third",
    ]
    assert chosen_layer(residual_net, images, None) == "relu"
    head = residual_net.third.weight
    x = residual_net.first(images).relu()
    x = (residual_net.second(x) + x).relu()
    last = (residual_net.second(x) + 0.5 * x).relu()
    # The mean slope of a mean over 64 positions is w / 64.
    cam = (head[classes][:, :, None, None] / 64 * last).sum(1).relu()
    found = grad_cam(residual_net, images, classes)
    assert torch.allclose(found, cam.detach().float())
    assert found.max() > 0


def test_layers_that_cannot_be(relu_net, images, classes):
    with pytest.raises(UserError, match=r"Expected `layer` to be one of 0, 1, 2, 3, 4, 5, but"):
        grad_cam(relu_net, images, classes, layer="layer9")
    with pytest.raises(UserError, match=r"with a feature map .* but got '7' with \(1, 8\)"):
        grad_cam(relu_net, images, classes, layer="7")
    torch.set_default_dtype(torch.float32)
    with pytest.raises(UserError, match=r"Expected `layer` to be given") as caught:
        grad_cam(nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(4)), images.float(), classes)
    assert "\n" not in str(caught.value)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(UserError, match=r"but is none"):
        grad_cam(flat, images.float(), classes)


def test_only_layers_with_features_are_offered():
    images, targets = torch.rand(1, 3, 32, 32), torch.tensor([0])
    model = network("vit_tiny_patch16_224", 5, image_size=(32, 32), normalize="own")
    # Deep inside, because nothing further out gives one: not the normalisation, as it once was.
    with pytest.raises(UserError, match=r"one of backbone\.patch_embed\.proj, but got 'layer9'"):
        grad_cam(model, images, targets, layer="layer9")
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    with pytest.raises(UserError, match=r"none: no layer gives feature maps"):
        grad_cam(flat, images, targets, layer="layer9")


@pytest.mark.parametrize("channels", [5, 30])
def test_channels_last_outputs_are_no_feature_maps(channels):
    """Also where there are so few channels that they might be columns."""

    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2), Last(), nn.Flatten(1, 2), nn.AdaptiveAvgPool1d(1)
    )
    with pytest.raises(UserError, match="Expected `layer` to be given"):
        chosen_layer(model, torch.rand(1, 3, 16, 16), None)


def test_few_channels_in_the_last_axis_are_no_columns():
    """An output of five channels could be read either way; the image's proportions decide."""

    class Turned(nn.Module):
        def __init__(self, *axes):
            super().__init__()
            self.axes = axes

        def forward(self, x):
            return x.permute(*self.axes)

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2), Turned(0, 2, 3, 1), Turned(0, 3, 1, 2),
        nn.ReLU(), nn.Flatten(), nn.Linear(5 * 7 * 7, 4),
    ).eval()  # fmt: skip
    images, targets = torch.rand(2, 3, 16, 16), torch.tensor([1, 3])
    first, last = (grad_cam(model, images, targets, layer=layer) for layer in ("0", "1"))
    assert (first > 0).any()
    torch.testing.assert_close(last, first)


def test_positive_only(relu_net, images, classes):
    assert (grad_cam(relu_net, images, classes) >= 0).all()
    assert guided_grad_cam(relu_net, images).of(classes).shape == images.shape


def test_a_pool_that_repeats_one_position_is_not_looked_at():
    torch.set_default_dtype(torch.float32)
    model = torchvision.models.vgg11(num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32)
    layer = chosen_layer(model, images, None)
    assert layer.startswith("features.")
    assert dict(output_shapes(model, images))[layer][2:] == (2, 2)


def _convolutions(*layers):
    return nn.Sequential(*(one for layer in layers for one in (layer, nn.ReLU())))


SHRINKING = {
    "two valid convolutions": (_convolutions(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3)), (20, 28)),
    "a pool of rows": (
        nn.Sequential(
            *_convolutions(nn.Conv2d(3, 16, 3, padding=1)),
            nn.MaxPool2d((4, 1)),
            *_convolutions(nn.Conv2d(16, 16, 3, padding=1)),
        ),
        (64, 64),
    ),
    "lenet": (
        nn.Sequential(
            *_convolutions(nn.Conv2d(3, 6, 5)),
            nn.MaxPool2d(2),
            *_convolutions(nn.Conv2d(6, 16, 5)),
            nn.MaxPool2d(2),
        ),
        (32, 64),
    ),
}


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("name", SHRINKING)
def test_other_proportions_than_the_image_s_by_hand(name, layer):
    """Equations 1 and 2; the sides that shrink by different shares are no channels."""
    features, size = SHRINKING[name]
    features = features.double()
    torch.manual_seed(0)
    for parameter in features.parameters():
        nn.init.uniform_(parameter, -0.3, 0.5)
    images, targets = torch.rand(2, 3, *size), torch.tensor([2, 0])
    activations = features(images).detach().requires_grad_()
    head = nn.Linear(activations.shape[1], 3)
    nn.init.uniform_(head.weight, -0.2, 0.8)
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    score = head(activations.mean((2, 3))).gather(1, targets[:, None]).sum()
    weights = torch.autograd.grad(score, activations)[0].mean((2, 3), keepdim=True)
    cam = (weights * activations).sum(1, keepdim=True).relu()
    expected = F.interpolate(cam, size=size, mode="bilinear")[:, 0].detach()
    found = grad_cam(model, images, targets, layer=layer)
    assert expected.max() > 0
    assert torch.allclose(found, expected.float())


class _Mixer(nn.Module):
    """Residual, on channels that lie last."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.within = nn.LayerNorm(channels), nn.Identity()

    def forward(self, x):
        return x + self.within(self.norm(x) * 2)


def test_channels_last_by_what_the_layers_are():
    """A norm of the last side speaks for what has its shape, inside a block and after it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mixer, self.head = nn.Conv2d(3, 6, 3), _Mixer(6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.mixer(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

    torch.manual_seed(0)
    model, size = Net(), (12, 20)
    images, targets = torch.rand(2, 3, *size), torch.tensor([2, 0])
    assert chosen_layer(model, images, None) == "mixer"
    # The mean slope of a mean over 180 positions is w / 180.
    weights = model.head.weight[targets][:, None, None] / 180
    before = model.conv(images).permute(0, 2, 3, 1)
    within = model.mixer.norm(before) * 2
    for layer, features in ((None, before + within), ("mixer.within", within)):
        cam = (weights * features).sum(3)[:, None].relu()
        expected = F.interpolate(cam, size=size, mode="bilinear")[:, 0].detach()
        assert torch.allclose(grad_cam(model, images, targets, layer=layer), expected.float())
