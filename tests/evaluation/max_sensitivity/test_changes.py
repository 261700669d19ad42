"""Max-sensitivity against Captum's, and on models where it can be worked out."""

from __future__ import annotations

import torch
from captum.metrics import sensitivity_max
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.evaluation.max_sensitivity.changes import max_sensitivity


def gradients(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        scores = model(images)[range(len(images)), classes].sum()
        return torch.autograd.grad(scores, images)[0].abs().amax(1)


def given(inputs: Tensor, moved: Tensor) -> Tensor:
    """Captum's perturbation function with our perturbations: each image's stand together."""
    return inputs + moved.flatten(0, 1)


def test_it_is_captums() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 80, 4)
        ).double()
    images = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    classes = model(images).argmax(1)
    streams = SampleGenerator(2, ["a", "b"])
    steps = [(2 * streams.uniform(3, 8, 10) - 1).double() * 0.1 for _ in range(7)]

    def explanation(inputs: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        # Captum hands on the intact images as a tuple, the altered ones as a tensor.
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        return (gradients(model, inputs, classes.repeat_interleave(len(inputs) // 2)),)

    expected = sensitivity_max(
        explanation,
        images,
        lambda inputs: given(inputs, torch.stack(steps, 1)),
        n_perturb_samples=7,
    )
    found = max_sensitivity(
        lambda inputs: {"map": gradients(model, inputs, classes)},
        images,
        radius=0.1,
        samples=7,
        generator=SampleGenerator(2, ["a", "b"]),
    )
    torch.testing.assert_close(found["map"], expected)
    assert float(expected.min()) > 0


def test_a_map_that_does_not_look_moves_by_nothing_and_the_image_by_the_radius() -> None:
    images = torch.full((2, 1, 30, 40), 0.5)
    maps = max_sensitivity(
        lambda inputs: {"fixed": torch.ones(2, 30, 40), "image": inputs[:, 0]}, images, radius=0.1
    )
    assert maps["fixed"].tolist() == [0, 0]
    # Uniform on ±0.1 has a root mean square of 0.1/√3, over an image of 0.5 everywhere.
    expected = torch.full((2,), 0.1 / 3**0.5 / 0.5).double()
    torch.testing.assert_close(maps["image"], expected, atol=0, rtol=0.1)


def test_a_map_of_zeros_is_not_divided() -> None:
    images = torch.zeros(1, 1, 3, 3)
    found = max_sensitivity(lambda inputs: {"map": inputs[:, 0]}, images, radius=0.2, samples=1)
    assert 0 < found["map"].item() < 0.2 * 3
