from __future__ import annotations

import weakref
from functools import partial

import numpy as np
import pytest
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods import smoothgrad as module
from saliency_lab.attribution.methods.grad_cam import grad_cam
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.gradient_shap import gradient_shap
from saliency_lab.attribution.methods.guided_backprop import guided_backprop
from saliency_lab.attribution.methods.smoothgrad import smoothgrad, smoothgrad_squared, vargrad
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")


def _fields(model, images, classes, samples, noise):
    """The gradient at each noisy copy, made the long way."""
    found = np.zeros((samples, *images.shape))
    for b, sample_id in enumerate("abc"):
        stream = SampleGenerator(7, [sample_id])
        spread = noise * float(images[b].max() - images[b].min())
        for s in range(samples):
            copy = images[b : b + 1] + spread * stream.normal(3, 8, 8).double()
            copy.requires_grad_(True)
            (slope,) = torch.autograd.grad(model(copy)[0, classes[b]], copy)
            found[s, b] = slope[0].numpy()
    return found


@pytest.mark.parametrize("dim", [1.0, 0.4])
def test_three_forms_by_the_long_way(dim, relu_net, images, classes):
    images = images * dim
    fields = _fields(relu_net, images, classes, 5, 0.2)
    settings = {"samples": 5, "noise": 0.2, "generator": SampleGenerator(7, "abc")}
    mean = smoothgrad(relu_net, images, **settings).of(classes)
    np.testing.assert_allclose(mean, fields.mean(0))
    squared = smoothgrad_squared(relu_net, images, classes, **settings)
    np.testing.assert_allclose(squared, (fields**2).mean(0).max(1), rtol=1e-6)
    variance = vargrad(relu_net, images, classes, **settings)
    np.testing.assert_allclose(variance, fields.var(0).max(1), rtol=1e-6)
    assert squared.dtype == variance.dtype == torch.float32


def test_without_noise_it_is_the_base(relu_net, images, classes):
    for base in (gradient, guided_backprop):
        found = smoothgrad(relu_net, images, base=base, samples=3, noise=0.0).of(classes)
        assert torch.allclose(found, base(relu_net, images).of(classes))
    assert vargrad(relu_net, images, classes, samples=3, noise=0.0).max() < 1e-20


@pytest.mark.parametrize(("at_once", "passes"), [(1, 6), (4, 2)])
def test_copies_are_the_same_for_every_class_and_gone_after_use(
    at_once, passes, linear_net, images, classes, monkeypatch
):
    monkeypatch.setattr(module, "copies_at_once", lambda model, images: at_once)
    seen, alive = [], []

    def base(model, noisy, *, generator=None):
        field = gradient(model, noisy)
        seen.append(noisy)
        alive.append(weakref.ref(field))
        assert sum(ref() is not None for ref in alive) <= 2
        return field

    field = smoothgrad(linear_net, images, base=base, samples=6)
    first = field.of(classes)
    field.of((classes + 1) % 4)
    assert torch.allclose(field.of(classes), first)
    # One pass for the first question, one for all classes after it.
    assert len(seen) == 2 * passes
    for one, other in zip(seen[:passes], seen[passes:], strict=True):
        assert torch.equal(one, other)


def test_a_random_base_draws_anew_for_each_copy(relu_net, images, classes):
    base = partial(gradient_shap, samples=1)
    settings = {"base": base, "noise": 0.0, "generator": SampleGenerator(0, "abc")}
    one = smoothgrad(relu_net, images, samples=1, **settings).of(classes)
    two = smoothgrad(relu_net, images, samples=2, **settings).of(classes)
    assert not torch.allclose(one, two)
    assert torch.equal(two, smoothgrad(relu_net, images, samples=2, **settings).of(classes))


@pytest.mark.parametrize("base", [grad_cam, partial(grad_cam, layer="3")])
def test_a_base_without_a_field_is_refused(base, relu_net, images, classes):
    with pytest.raises(UserError, match="but got grad_cam, which gives one map per target"):
        smoothgrad(relu_net, images, base=base)
    with pytest.raises(UserError, match="Expected `base`"):
        vargrad(relu_net, images, classes, base=base)


def test_generator_of_another_batch_is_refused(relu_net, images):
    with pytest.raises(UserError, match=r"one stream per image \(3\), but got 2"):
        smoothgrad(relu_net, images, generator=SampleGenerator(0, "ab"))
