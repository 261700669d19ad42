"""SmoothGrad around any source of a class field, and its squared and variance forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField, input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator, derived, restarted
from saliency_lab.attribution.core.sample_groups import copies_at_once, copies_of, groups
from saliency_lab.attribution.core.sources import expect_field_source, source_output
from saliency_lab.attribution.core.summed_field import StreamedField, Term
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.frozen import intact_logits

FieldSource = Callable[..., ClassField]


@input_gradients_only
def smoothgrad(
    model: nn.Module,
    images: Tensor,
    *,
    base: FieldSource = gradient,
    samples: Annotated[int, Gt(0)] = 50,
    noise: Annotated[float, Ge(0)] = 0.15,
    generator: SampleGenerator | None = None,
) -> ClassField:
    """Mean of a class field over noisy copies of the image (Smilkov et al. 2017, section 3).

    The copies of an image are the same for every class, and as many at a time are in memory as
    one pass profits from.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1]; noisy copies are not clamped.
        base: the class-field source that is averaged.
        samples: noisy copies per image.
        noise: standard deviation of the noise as a share of the image's own range (max − min).
        generator: one stream per image.

    Returns:
        Signed field in the units of the base.

    Raises:
        UserError: the base is no source of a class field, or refuses the model.
    """
    copies = NoisyFields(model, images, base, samples, noise, generator)

    def terms() -> Iterator[Term]:
        for field, count in copies:
            yield _share(field, count, samples)

    return StreamedField(intact_logits(model, images).to(images.device), terms)


@input_gradients_only
def smoothgrad_squared(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    base: FieldSource = gradient,
    samples: Annotated[int, Gt(0)] = 50,
    noise: Annotated[float, Ge(0)] = 0.15,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """Mean of the squared field over noisy copies (SmoothGrad², Hooker et al. 2019, section 4).

    Arguments as in `smoothgrad`. A square has no sign, so this is a map, not a class field.

    Returns:
        Shape (B, H, W), float32, non-negative, in squared units of the base; the largest channel.
    """
    total = torch.zeros_like(images)
    for field, count in NoisyFields(model, images, base, samples, noise, generator):
        total += copies_of(field, targets, count).square().sum(0) / samples
    return total.amax(1).float()


@input_gradients_only
def vargrad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    base: FieldSource = gradient,
    samples: Annotated[int, Gt(0)] = 50,
    noise: Annotated[float, Ge(0)] = 0.15,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """Variance of the field over noisy copies (VarGrad, Adebayo et al. 2018, section 3).

    Arguments as in `smoothgrad`. A variance has no sign, so this is a map, not a class field.

    Returns:
        Shape (B, H, W), float32, non-negative, in squared units of the base; the largest channel.
    """
    mean, squares = torch.zeros_like(images), torch.zeros_like(images)
    copies = NoisyFields(model, images, base, samples, noise, generator)
    # Welford's update: the difference of two large sums would lose the variance in float32.
    seen = 0
    for field, count in copies:
        for value in copies_of(field, targets, count):
            seen += 1
            step = value - mean
            mean += step / seen
            squares += step * (value - mean)
    return (squares / samples).amax(1).float()


def _share(field: ClassField, count: int, samples: int) -> Term:
    return lambda classes: copies_of(field, classes, count).sum(0) / samples


class NoisyFields:
    """The base's field at some noisy copies at a time, and how many copies of each image they are.

    Every iteration gives the same copies again.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        base: FieldSource,
        samples: int,
        noise: float,
        generator: SampleGenerator | None,
    ) -> None:
        expect_field_source(base)
        self._model, self._base, self._samples = model, base, samples
        self._images = images.detach()
        self._streams = restarted(generator, images)
        flat = self._images.flatten(1)
        self._scale = noise * (flat.amax(1) - flat.amin(1))[:, None, None, None]
        self._at_once = copies_at_once(model, self._images)

    def __iter__(self) -> Iterator[tuple[ClassField, int]]:
        draws = restarted(self._streams, self._images)
        for samples in groups(range(self._samples), self._at_once):
            normal = [draws.normal(*self._images.shape[1:]).to(self._images) for _ in samples]
            noisy = torch.cat([self._images + self._scale * one for one in normal])
            ids = [derived(self._streams, sample).sample_ids for sample in samples]
            streams = SampleGenerator(self._streams.seed, list(chain.from_iterable(ids)))
            field = source_output(self._base, self._model, noisy, generator=streams)
            yield field, len(samples)
