"""How far a map moves when its image hardly does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.inputs import given_images

Explain = Callable[[Tensor], Mapping[str, Tensor]]


def max_sensitivity(
    explain: Explain,
    images: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    generator: SampleGenerator | None = None,
) -> dict[str, Tensor]:
    """The largest ‖φ(x + δ) − φ(x)‖ / ‖φ(x)‖ over random δ with no value beyond the radius.

    Args:
        explain: from images (B, C, H, W) to maps (B, H, W) by name; the explained classes are
            its own to hold fixed.
        images: floating, (B, C, H, W); a tensor or a NumPy array.
        radius: δ is uniform in [−radius, radius], by itself for each pixel and channel.
        samples: of δ per image.
        generator: random streams of δ; None: seeded by place.

    Returns:
        Name to float64 (B,), 0 or more. A map of zeros is not divided by its norm.

    Raises:
        UserError: images of another kind or shape.

    Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (in)fidelity and sensitivity of
    explanations", 2019, section 5; relative to the map's norm as in Captum.
    """
    images = given_images(images, None)
    streams = restarted(generator, images)
    intact = explain(images)
    return largest_changes(explain, images, intact, streams, radius, samples)


def largest_changes(
    explain: Explain,
    images: Tensor,
    intact: Mapping[str, Tensor],
    generator: SampleGenerator,
    radius: float,
    samples: int,
) -> dict[str, Tensor]:
    """`max_sensitivity` of maps that are known already; streams are drawn on."""
    found = {name: _norms(values).new_zeros(len(values)) for name, values in intact.items()}
    for _ in range(samples):
        moved = (2 * generator.uniform(*images.shape[1:]) - 1).to(images) * radius
        for name, values in explain(images + moved).items():
            change = _norms(values.double() - intact[name].double())
            found[name] = torch.maximum(found[name], change)
    for name, values in intact.items():
        norm = _norms(values)
        found[name] = found[name] / torch.where(norm > 0, norm, 1.0)
    return found


def _norms(maps: Tensor) -> Tensor:
    return maps.double().flatten(1).norm(dim=1)
