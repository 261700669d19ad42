"""Random numbers that belong to a sample, not to a batch, a process or an order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saliency_lab.errors import UserError


class SampleGenerator:
    """One random stream per sample, seeded by (seed, sample id) alone.

    Two draws of the same sequence for the same sample give the same numbers, whatever batch,
    device, order or process the sample is met in: numbers are drawn on the CPU and moved.

    Args:
        seed: the run's seed.
        sample_ids: one stable id per image of the batch, in the batch's order.
    """

    def __init__(self, seed: int, sample_ids: Sequence[str | int]) -> None:
        self.seed = seed
        self.sample_ids = tuple(sample_ids)
        self._streams = [_stream(seed, sample_id) for sample_id in self.sample_ids]

    def __len__(self) -> int:
        return len(self._streams)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, shape (B, *shape), float32 on the CPU."""
        return self._draw(lambda stream: torch.randn(shape, generator=stream, dtype=torch.float32))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), shape (B, *shape), float32 on the CPU."""
        return self._draw(lambda stream: torch.rand(shape, generator=stream, dtype=torch.float32))

    def _draw(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(stream) for stream in self._streams])


def _stream(seed: int, sample_id: str | int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=8).digest()
    # torch takes seeds up to 2**63 - 1 on every platform.
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


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
