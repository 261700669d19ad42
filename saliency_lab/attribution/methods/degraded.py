"""A control of known quality: a source's field with a known share of noise in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn

from saliency_lab.attribution.core.field import (
    ClassField,
    expect_every_class,
    input_gradients_only,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.attribution.core.sources import expect_field_source, source_output
from saliency_lab.attribution.methods.gradient import gradient


@input_gradients_only
def degraded(
    model: nn.Module,
    images: Tensor,
    *,
    base: Callable[..., ClassField] = gradient,
    share: Annotated[float, Ge(0), Le(1)] = 0.5,
    generator: SampleGenerator | None = None,
) -> ClassField:
    """(1 − share) · field + share · noise: a higher share shows less of what the base knows.

    The noise is normal, independent for every pixel, channel and class, and of the field's own
    root mean square for that image and class. A measure that does not put shares of 0, 0.25, 0.5,
    0.75 and 1 into this order does not measure what the base is good at.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        base: the class-field source that is degraded.
        share: of the noise; 0 is the base itself, 1 noise alone.
        generator: one stream per image.

    Returns:
        Signed field in the units of the base.

    Raises:
        UserError: the base is no source of a class field, or refuses the model.
    """
    expect_field_source(base)
    streams = restarted(generator, images)
    field = source_output(base, model, images, generator=generator)
    return _DegradedField(field, share, streams)


class _DegradedField:
    def __init__(self, field: ClassField, share: float, streams: SampleGenerator) -> None:
        self.logits = field.logits
        self._field, self._share, self._streams = field, share, streams

    def expect_every_class(self) -> None:
        expect_every_class(self._field)

    def of(self, classes: Tensor) -> Tensor:
        """Signed attribution of logit `classes[b]` of image b, shape (B, C, H, W)."""
        field = self._field.of(classes)
        ids = zip(self._streams.sample_ids, classes.tolist(), strict=True)
        own = SampleGenerator(self._streams.seed, [f"{sample}/noise/{c}" for sample, c in ids])
        noise = own.normal(*field.shape[1:]).to(field)
        size = field.square().mean((1, 2, 3), keepdim=True).sqrt()
        return (1 - self._share) * field + self._share * size * noise
