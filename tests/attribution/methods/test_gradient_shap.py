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


@pytest.mark.parametrize("baselines", [["black"], ["black", "white"], ["black", "white", "black"]])
def test_stratified_draws_take_one_place_from_each_part_of_the_path(baselines, images):
    # The gradient of the squares' sum tells where on the path it was taken: 2 (I⁰ + α (I − I⁰)).
    def squares(batch):
        taken.append(batch.detach().clone())
        return torch.stack([batch.flatten(1).square().sum(1)] * 2, 1)

    class Squares(torch.nn.Module):
        forward = staticmethod(squares)

    samples, taken = 7, []
    shap = gradient_shap(Squares(), images, baselines=baselines, samples=samples, stratified=True)
    taken.clear()
    shap.of(torch.zeros(len(images), dtype=torch.int64))
    points = torch.cat(taken).unflatten(0, (-1, len(images)))[:samples]
    for first, name in enumerate(baselines):
        own, start = points[first :: len(baselines)], {"black": 0.0, "white": 1.0}[name]
        # Of the whole image, as a pixel may be its baseline's.
        change = (images - start).flatten(1)
        along = ((own - start).flatten(2) * change).sum(2) / change.square().sum(1)
        parts = (along.sort(0).values * len(own)).floor()
        assert torch.equal(parts, torch.arange(float(len(own)))[:, None].expand_as(parts))


def test_stratified_draws_have_the_same_expectation_and_a_smaller_error(relu_net, images, classes):
    def of(seed, samples=24, stratified=False):
        streams = SampleGenerator(seed, "abc")
        words = {"samples": samples, "stratified": stratified, "generator": streams}
        return gradient_shap(relu_net, images, baselines=["black", "white"], **words).of(classes)

    exact = of(0, samples=4000)
    plain, even = (torch.stack([of(s, stratified=way) for s in range(1, 41)]) for way in (0, 1))
    errors = [(found - exact).square().mean().sqrt() for found in (plain, even)]
    assert errors[1] < 0.6 * errors[0]
    assert (even.mean(0) - exact).square().mean().sqrt() < 0.4 * errors[1]
