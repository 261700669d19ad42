"""Generators made from a generator: from the start again, for a draw within a draw, one by one."""

from __future__ import annotations

from torch import Tensor

from saliency_lab.attribution.randomness import SampleGenerator
from saliency_lab.errors import UserError


def restarted(generator: SampleGenerator | None, images: Tensor) -> SampleGenerator:
    """A generator at the start of the same streams.

    Without a generator the seed is 0 and an image's place in the batch is its id.
    """
    if generator is None:
        return SampleGenerator(0, range(len(images)))
    if len(generator) != len(images):
        raise UserError(
            f"Expected `generator` to have one stream per image ({len(images)}), "
            f"but got {len(generator)}."
        )
    return SampleGenerator(generator.seed, generator.sample_ids)


def derived(generator: SampleGenerator, label: str | int) -> SampleGenerator:
    """A generator of streams of their own, for a draw within a draw."""
    return SampleGenerator(
        generator.seed, [f"{sample_id}/{label}" for sample_id in generator.sample_ids]
    )


def separate(generator: SampleGenerator) -> list[SampleGenerator]:
    """One generator per image, each at the start of its stream."""
    return [SampleGenerator(generator.seed, [one]) for one in generator.sample_ids]
