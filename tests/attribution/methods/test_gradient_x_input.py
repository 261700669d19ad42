from __future__ import annotations

import captum.attr
import pytest
import torch

from saliency_lab.attribution.methods.gradient_x_input import gradient_x_input

pytestmark = pytest.mark.usefixtures("float64")


def test_linear_model(linear_net, images, classes):
    field = gradient_x_input(linear_net, images)
    assert torch.allclose(field.of(classes), linear_net.weight[classes] * images)
    assert torch.allclose(field.logits, linear_net(images))


def test_captum_agrees(plain_net, images, classes):
    peer = captum.attr.InputXGradient(plain_net)
    expected = peer.attribute(images.clone().requires_grad_(True), target=classes)
    assert torch.allclose(gradient_x_input(plain_net, images).of(classes), expected)
