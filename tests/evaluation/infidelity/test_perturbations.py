"""Infidelity against Captum's, and on models where it can be worked out."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.evaluation.infidelity.perturbations import drawn_perturbations, infidelity


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 80, 4)
        )
        return found.double()


def given(inputs: Tensor, *, taken: Tensor) -> tuple[Tensor, Tensor]:
    """Captum's perturbation function with our perturbations: each image's stand together."""
    copies = len(inputs) // 2
    chosen = torch.cat([taken[0, :copies], taken[1, :copies]])
    return chosen, inputs - chosen


@pytest.mark.parametrize(("kind", "size"), [("noise", 0.3), ("square", 0.4)])
def test_it_is_captums_after_the_best_scale(kind: str, size: float) -> None:
    model = net()
    images = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    maps = torch.randn(2, 8, 10, dtype=torch.float64)
    streams = [SampleGenerator(7, [name]) for name in ("a", "b")]
    taken = torch.stack(
        [
            drawn_perturbations(image, stream, kind, size, 40)
            for image, stream in zip(images, streams, strict=True)
        ]
    )
    classes = model(images).argmax(1)
    expected = captum_infidelity(
        model,
        partial(given, taken=taken),
        images,
        maps[:, None].expand(-1, 3, -1, -1),
        target=classes,
        n_perturb_samples=40,
        normalize=True,
    )
    found = infidelity(
        model,
        images,
        maps,
        perturbation=kind,
        size=size,
        samples=40,
        generator=SampleGenerator(7, ["a", "b"]),
    )
    torch.testing.assert_close(found.residual, expected, atol=1e-10, rtol=1e-8)
    with torch.no_grad():
        changes = torch.stack(
            [
                model(image[None])[0, c] - model(image - part)[:, c]
                for image, part, c in zip(images, taken, classes, strict=True)
            ]
        )
    share = found.residual / changes.square().mean(1)
    torch.testing.assert_close(found.infidelity, share)
    scaled = infidelity(
        model,
        images,
        -50 * maps,
        perturbation=kind,
        size=size,
        samples=40,
        generator=SampleGenerator(7, ["a", "b"]),
    )
    torch.testing.assert_close(scaled.infidelity, found.infidelity)


def test_weights_of_a_linear_model_leave_nothing_and_no_map_leaves_all() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    maps = model[1].weight.detach()[model(images).argmax(1)].view(3, 8, 8)
    for kind in ("noise", "square"):
        found = infidelity(model, images, maps, perturbation=kind)
        assert float(found.infidelity.max()) < 1e-12
        nothing = infidelity(model, images, torch.zeros(3, 8, 8), perturbation=kind)
        assert nothing.infidelity.tolist() == [1, 1, 1]


def test_squares_are_blackened_and_noise_is_as_wide_as_said() -> None:
    image = torch.rand(3, 20, 30) + 0.5
    taken = drawn_perturbations(image, SampleGenerator(0, [0]), "square", 0.25, 50)
    after = image - taken
    assert (after == 0).all(1).sum((1, 2)).tolist() == [25] * 50
    assert len({tuple(one.nonzero()[0].tolist()) for one in (after == 0).all(1)}) > 10
    noise = drawn_perturbations(image, SampleGenerator(0, [0]), "noise", 0.25, 50)
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    with pytest.raises(UserError, match="`perturbation`"):
        drawn_perturbations(image, SampleGenerator(0, [0]), "circle", 0.25, 5)
