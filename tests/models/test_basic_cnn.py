from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from saliency_lab.models import basic_cnn as _registers_it  # noqa: F401


def test_parameters_of_the_reference():
    model = timm.create_model("basic_cnn", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 495_146


def test_parameters_add_up_layer_by_layer():
    def convolution(inputs, outputs, side):
        return inputs * outputs * side**2 + outputs

    blocks = sum(
        convolution(inputs, width, 3) + 2 * convolution(width, width, 3)
        for inputs, width in ((32, 32), (32, 64), (64, 128))
    )
    expected = convolution(3, 32, 7) + blocks + 128 * 7 + 7
    model = timm.create_model("basic_cnn", num_classes=7)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(("side", "map_side"), [(224, 7), (64, 2), (32, 1)])
def test_stem_and_blocks_halve_five_times(side, map_side):
    model = timm.create_model("basic_cnn", num_classes=10).eval()
    images = torch.rand(2, 3, side, side)
    assert model.stem(images).shape == (2, 32, side // 4, side // 4)
    assert model.forward_features(images).shape == (2, 128, map_side, map_side)
    assert model(images).shape == (2, 10)


def test_layers_in_order():
    model = timm.create_model("basic_cnn", num_classes=10)
    kinds = [type(layer) for block in model.blocks for layer in block]
    assert kinds == [nn.Conv2d, nn.ReLU] * 9
    assert [layer.stride for block in model.blocks for layer in block[::2]] == [
        (1, 1),
        (2, 2),
        (1, 1),
    ] * 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_timms_face():
    model = timm.create_model("basic_cnn", num_classes=0, in_chans=1)
    features = model(torch.rand(2, 1, 32, 32))
    assert features.shape == (2, model.num_features)
    model.reset_classifier(4)
    assert model.get_classifier().out_features == 4
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 4)
