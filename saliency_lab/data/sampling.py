"""Which samples form which batch, on any number of processes."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from torch.utils.data import Sampler

from saliency_lab.errors import UserError


class TrainBatches(Sampler[list[int]]):
    """Shuffled batches that depend on (seed, epoch) alone; every rank gets a strided share.

    Over all ranks, batch i holds the samples that batch i of one process holds. All samples are
    used, none twice. Only a last batch with fewer samples than ranks, or with a single one, is
    merged into the one before it: no rank is left without a sample, and no batch norm with one.

    Args:
        size: number of samples, at least `world`.
        batch_size: samples per batch over all ranks, at least `world`.
        seed: the run's seed.
        rank: number of this process.
        world: number of processes.
        epoch: the epoch to begin with; Lightning sets later ones through `set_epoch`.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
    ) -> None:
        if min(size, batch_size) < world:
            raise UserError(
                "Expected `data.batch_size` and the number of training images to be at least the "
                f"number of processes ({world}), but got {batch_size} and {size}."
            )
        self.seed, self.rank, self.world, self.epoch = seed, rank, world, epoch
        starts = list(range(0, size, batch_size))
        if len(starts) > 1 and batch_size > 1 and size - starts[-1] < max(world, 2):
            starts.pop()
        self._edges = [*starts, size]

    @property
    def sampler(self) -> TrainBatches:
        """Itself: Lightning looks for `set_epoch` on the loader's `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._edges) - 1

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self._edges[-1])
        for start, stop in zip(self._edges[:-1], self._edges[1:], strict=True):
            yield order[start:stop][self.rank :: self.world].tolist()


class BlockBatches(Sampler[list[int]]):
    """Fixed blocks in order, each exactly once: block i = samples [i·block, (i+1)·block).

    The ranks deal out the pending blocks in turn, so a block holds the same samples on any number
    of processes and in any resumed run. A rank may get none.

    Args:
        size: number of samples.
        block: samples per block.
        done: blocks to leave out.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self, size: int, block: int, *, done: Collection[int] = (), rank: int = 0, world: int = 1
    ) -> None:
        self.size, self.block = size, block
        count = -(-size // block)
        finished = set(done)
        self.blocks = [number for number in range(count) if number not in finished][rank::world]

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.blocks:
            yield list(range(number * self.block, min((number + 1) * self.block, self.size)))
