from __future__ import annotations

import math

import captum.attr
import pytest
import torch
from torch import nn

from saliency_lab.attribution.core.completeness import completeness_error
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.integrated_gradients import (
    integrated_field,
    integrated_gradients,
)

pytestmark = pytest.mark.usefixtures("float64")


class Closed(nn.Module):
    """Logit 0 is the sum of (5x₀, x₁², sin x₂); logit 1 is the sum of the inputs."""

    def forward(self, x):
        x = x.flatten(1)
        y = torch.stack([5 * x[:, 0], x[:, 1] ** 2, x[:, 2].sin()], 1)
        return torch.stack([y.sum(1), x.sum(1)], 1)


def test_closed_form():
    image = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    start = torch.tensor([0.5, 1.0, 1.0]).view(1, 3, 1, 1)
    field = integrated_field(Closed(), image, [start], steps=20)
    found = field.of(torch.tensor([0])).flatten()
    assert torch.allclose(found, torch.tensor([2.5, 3.0, math.sin(3) - math.sin(1)]))
    assert torch.allclose(field.of(torch.tensor([1])), image - start)
    assert completeness_error(field, torch.tensor([0])) < 1e-12


@pytest.mark.parametrize(("baseline", "value"), [("black", 0.0), ("white", 1.0)])
def test_captum_agrees(baseline, value, relu_net, images, classes):
    for module in relu_net:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = captum.attr.IntegratedGradients(relu_net).attribute(
        images, baselines=value, target=classes, n_steps=12
    )
    found = integrated_gradients(relu_net, images, baseline=baseline, steps=12)
    assert torch.allclose(found.of(classes), expected)


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur", "uniform", "several"])
def test_completeness_error_falls_with_steps(baseline, relu_net, images, classes):
    errors = []
    for steps in (5, 150):
        field = integrated_gradients(
            relu_net, images, baseline=baseline, steps=steps, generator=SampleGenerator(0, "abc")
        )
        errors.append(completeness_error(field, classes))
        attributed = field.of(classes).flatten(1).sum(1)
        gain = (field.logits - field.baseline_logits).gather(1, classes[:, None])[:, 0]
        assert torch.allclose(errors[-1], (attributed - gain).abs())
    assert errors[-1].shape == (3,)
    assert errors[-1].max() < 5e-3
    assert errors[-1].max() < errors[0].max()


def test_several_is_the_mean_of_four(relu_net, images, classes):
    def of(name):
        generator = SampleGenerator(0, "abc")
        field = integrated_gradients(relu_net, images, baseline=name, steps=4, generator=generator)
        return field.of(classes)

    mean = (of("black") + of("white") + of("blur") + of("uniform")) / 4
    assert torch.allclose(of("several"), mean)
