"""Gradient times input."""

from __future__ import annotations

from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField, input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.gradient import gradient


class _ProductField:
    """A class field times the images."""

    def __init__(self, field: ClassField, images: Tensor) -> None:
        self.logits = field.logits
        self._field = field
        self._images = images

    def of(self, classes: Tensor) -> Tensor:
        return self._field.of(classes) * self._images


@input_gradients_only
def gradient_x_input(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """Class field I · ∂S_c/∂I (Shrikumar et al. 2016, "Not just a black box", section 2).

    Pixels are in [0, 1], so a black pixel gets 0 whatever the model's own normalisation is.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        generator: not used.

    Returns:
        Signed field in logit units, to first order the change of the logit from a black pixel.
    """
    return _ProductField(gradient(model, images, generator=generator), images.detach())
