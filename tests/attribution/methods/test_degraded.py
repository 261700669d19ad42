from __future__ import annotations

from functools import partial

import pytest
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.degraded import degraded
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.gradient_x_input import gradient_x_input
from saliency_lab.attribution.methods.rise import rise
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")


def field_of(share, net, images, classes, ids="abc", base=gradient):
    source = partial(degraded, base=base, share=share)
    return source(net, images, generator=SampleGenerator(3, ids)).of(classes)


def test_the_ends_are_the_base_and_noise_alone(relu_net, images, classes):
    base = gradient_x_input(relu_net, images).of(classes)
    assert torch.equal(field_of(0, relu_net, images, classes, base=gradient_x_input), base)
    noise = field_of(1, relu_net, images, classes, base=gradient_x_input)
    size = base.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(noise.flatten(1).std(1) / size, torch.ones(3), rtol=0.15, atol=0)
    assert float(noise.mean() / noise.std()) == pytest.approx(0, abs=0.15)


def test_halfway_is_the_mean_of_both_ends(relu_net, images, classes):
    ends = [field_of(share, relu_net, images, classes) for share in (0, 1)]
    quarter = field_of(0.25, relu_net, images, classes)
    torch.testing.assert_close(quarter, 0.75 * ends[0] + 0.25 * ends[1])


def test_noise_belongs_to_the_sample_and_the_class(relu_net, images, classes):
    found = field_of(1, relu_net, images, classes)
    turned = field_of(1, relu_net, images.flip(0), classes.flip(0), "cba")
    torch.testing.assert_close(found, turned.flip(0))
    other = field_of(1, relu_net, images, (classes + 1) % 3)
    alike = torch.nn.functional.cosine_similarity(found.flatten(1), other.flatten(1))
    assert alike.abs().max() < 0.4


def test_a_map_has_no_field_to_degrade(relu_net, images, classes):
    with pytest.raises(UserError, match="signed field per class, but got rise"):
        field_of(0.5, relu_net, images, classes, base=partial(rise, samples=4))


def test_a_base_of_ones_own_may_do_without_a_generator(relu_net, images, classes):
    def own(model, images):
        return gradient(model, images)

    assert torch.equal(
        field_of(0, relu_net, images, classes, base=own), gradient(relu_net, images).of(classes)
    )
