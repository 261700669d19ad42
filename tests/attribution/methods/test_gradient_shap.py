from __future__ import annotations

import pytest
import torch

from saliency_lab.attribution.core.completeness import completeness_error
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.gradient_shap import gradient_shap

pytestmark = pytest.mark.usefixtures("float64")


def test_shapley_values_of_a_linear_model(linear_net, images, classes):
    # For a linear model they are w (x − E baseline), whatever the places on the path.
    field = gradient_shap(linear_net, images, baselines=["black", "white"], samples=6)
    expected = linear_net.weight[classes] * (images - 0.5)
    assert torch.allclose(field.of(classes), expected)
    assert completeness_error(field, classes).max() < 1e-10


def test_noise_has_mean_zero_and_belongs_to_the_sample(linear_net, images, classes):
    def of(samples, generator):
        return gradient_shap(
            linear_net,
            images,
            baselines=["black"],
            samples=samples,
            noise=0.2,
            generator=generator,
        ).of(classes)

    exact = linear_net.weight[classes] * images
    errors = [(of(n, SampleGenerator(0, "abc")) - exact).abs().mean() for n in (2, 200)]
    assert 0 < errors[1] < errors[0] / 4
    assert torch.equal(of(3, SampleGenerator(0, "abc")), of(3, SampleGenerator(0, "abc")))
    assert not torch.equal(of(3, SampleGenerator(0, "abc")), of(3, SampleGenerator(1, "abc")))


@pytest.mark.parametrize("count", [4, 400])
def test_complete_in_expectation(count, relu_net, images, classes):
    field = gradient_shap(relu_net, images, baselines=["black", "white"], samples=count)
    scale = (field.logits - field.baseline_logits).abs().max()
    assert completeness_error(field, classes).max() < scale * 6 / count**0.5


def test_the_draws_are_the_same_for_every_class(relu_net, images):
    shared = gradient_shap(relu_net, images, samples=3, generator=SampleGenerator(5, "abc"))
    for index in range(4):
        alone = gradient_shap(relu_net, images, samples=3, generator=SampleGenerator(5, "abc"))
        classes = torch.full((3,), index)
        assert torch.allclose(shared.of(classes), alone.of(classes))
