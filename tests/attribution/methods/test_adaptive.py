"""Rounds until an error is met: the mean that it should be, by images that stop by themselves."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.maps import BatchMaps, maps
from saliency_lab.attribution.methods.adaptive import adaptive, adaptive_map
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.kernel_shap import kernel_shap
from saliency_lab.attribution.methods.rise import rise
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")

IDS = "abc"
SMALL = partial(smoothgrad, samples=2, noise=0.4)


def _by_hand(model, image, place, rounds, classes):
    """The mean of so many rounds of one image, one after the other."""
    total = torch.zeros_like(image)
    for number in range(rounds):
        own = SampleGenerator(7, [f"{IDS[place]}/round-{number}"])
        total += SMALL(model, image[None], generator=own).of(classes)[0] / rounds
    return total


@pytest.mark.parametrize("every", [False, True])
def test_it_is_the_mean_of_each_image_s_own_rounds(every, relu_net, images):
    # A flat image has no range and so no noise: two rounds are enough to see that.
    images = torch.cat([images[:2], torch.full_like(images[:1], 0.5)])
    field = adaptive(
        relu_net, images, base=SMALL, error=0.3, least=2, most=40, generator=SampleGenerator(7, IDS)
    )
    if every:
        field.expect_every_class()
    rounds, predicted = field.estimate.rounds.tolist(), field.logits.argmax(1)
    assert rounds[2] == 2
    assert len(set(rounds)) == 3
    assert max(rounds) < 40
    for step in range(4):
        classes = (predicted + step) % 4
        found = field.of(classes)
        for place, image in enumerate(images):
            expected = _by_hand(relu_net, image, place, rounds[place], classes[place : place + 1])
            torch.testing.assert_close(found[place], expected, rtol=1e-9, atol=1e-12)
    # One image's rival beside another's predicted class.
    mixed = predicted.clone()
    mixed[0] = (mixed[0] + 1) % 4
    found = field.of(mixed)
    assert torch.equal(found[1:], field.of(predicted)[1:])
    torch.testing.assert_close(
        found[0], _by_hand(relu_net, images[0], 0, rounds[0], mixed[:1]), rtol=1e-9, atol=1e-12
    )
    assert (field.estimate.error <= 0.3).all()


def test_an_image_stops_where_it_would_alone(relu_net, images):
    source = partial(adaptive, base=SMALL, error=0.25)

    def of(batch: Tensor, ids: str) -> BatchMaps:
        streams = SampleGenerator(7, ids)
        return maps(relu_net, batch, source, ("original", "active"), generator=streams)

    together = of(images, IDS)
    assert together.estimate is not None
    assert together.estimate.rounds.unique().numel() > 1
    for place in range(3):
        alone = of(images[place : place + 1], IDS[place])
        assert alone.estimate is not None
        assert alone.estimate.rounds[0] == together.estimate.rounds[place]
        for view in ("original", "active"):
            torch.testing.assert_close(alone.maps[view][0], together.maps[view][place])


def _noisy(model, images, targets, *, spread: float = 3.0, generator=None):
    """A map that is known exactly, the image's first channel, with a known noise."""
    return images[:, 0] + spread * generator.normal(*images.shape[2:]).to(images)


def test_the_error_that_is_stated_is_the_error_that_is_made(linear_net):
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(60, 3, 8, 8, generator=draw)
    exact = images[:, 0] - images[:, 0].mean((1, 2), keepdim=True)
    targets = torch.zeros(60, dtype=torch.int64)
    for error in (0.5, 0.3):
        found, estimate = adaptive_map(
            linear_net, images, targets, base=_noisy, error=error, most=3000,
            generator=SampleGenerator(0, range(60)),
        )  # fmt: skip
        own = found.double() - found.double().mean((1, 2), keepdim=True)
        true = ((own - exact).square().sum((1, 2)) / own.square().sum((1, 2))).sqrt()
        # 63 free pixels per image: the error of one is known to 9 %, of sixty to 2 %; that lucky
        # ones stop adds a few per cent.
        assert float((true / error).square().mean().sqrt()) == pytest.approx(1, abs=0.1)
        # The rounds that the formula asks for, with ‖exact‖² of each image.
        size = exact.square().sum((1, 2))
        wanted = 63 * 9.0 / size * (1 / error**2 - 1)
        ratio = estimate.rounds.double().mean() / wanted.mean()
        assert float(ratio) == pytest.approx(1, abs=0.15)


def test_maps_and_what_they_cost(relu_net, images):
    targets = torch.tensor([0, 1, 2])
    base = partial(rise, samples=8, cells=3)
    found = maps(
        relu_net, images, partial(adaptive_map, base=base, error=0.3, least=3), targets=targets,
        generator=SampleGenerator(7, IDS),
    )  # fmt: skip
    rounds = found.estimate.rounds.tolist()
    for place, count in enumerate(rounds):
        parts = [
            base(
                relu_net, images[place : place + 1], targets[place : place + 1],
                generator=SampleGenerator(7, [f"{IDS[place]}/round-{number}"]),
            )
            for number in range(count)
        ]  # fmt: skip
        torch.testing.assert_close(found.maps["original"][place], torch.cat(parts).mean(0))


def test_exact_values_need_no_more_than_the_least(relu_net, images):
    # Few superpixels: all coalitions fit, nothing is left to chance.
    base = partial(kernel_shap, superpixels="grid", segments=4, samples=20)
    _, estimate = adaptive_map(relu_net, images, torch.zeros(3).long(), base=base, least=2)
    assert estimate.rounds.tolist() == [2, 2, 2]
    assert estimate.error.tolist() == [0, 0, 0]


def test_what_draws_nothing_is_itself(relu_net, images, classes):
    field = adaptive(relu_net, images, base=gradient, least=2)
    assert field.estimate.rounds.tolist() == [2, 2, 2]
    torch.testing.assert_close(field.of(classes), gradient(relu_net, images).of(classes))


def test_it_gives_up_after_the_most(relu_net, images):
    field = adaptive(relu_net, images, base=SMALL, error=1e-6, most=5)
    assert field.estimate.rounds.tolist() == [5, 5, 5]
    assert (field.estimate.error > 1e-6).all()


def test_what_it_is_no_use_for_is_refused(relu_net, images, classes):
    with pytest.raises(UserError, match=r"got rise, which gives maps; use method=adaptive_map"):
        adaptive(relu_net, images, base=rise)
    with pytest.raises(UserError, match=r"got smoothgrad, which gives a signed field; use"):
        adaptive_map(relu_net, images, classes, base=smoothgrad)
    with pytest.raises(UserError, match="maps alone, but got EstimatedMaps of adaptive_map"):
        adaptive_map(relu_net, images, classes, base=partial(adaptive_map, most=4))
    with pytest.raises(UserError, match=r"at least `method\.least` \(4\), but got 3"):
        adaptive(relu_net, images, most=3)
    with pytest.raises(UserError, match=r"`method\.most` to be at least"):
        adaptive_map(relu_net, images, classes, most=3)
