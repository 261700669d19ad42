from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from saliency_lab.data.sampling import BlockBatches, TrainBatches
from saliency_lab.errors import UserError


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [30, 31, 37, 39])
def test_ranks_together_make_the_batches_of_one_process(size: int, world: int) -> None:
    one = list(TrainBatches(size, 10, 42, epoch=3))
    ranks = [list(TrainBatches(size, 10, 42, rank=r, world=world, epoch=3)) for r in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    shares = [sorted(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]
    # Of one process, too, a single image at the end joins the batch before.
    if size % 10 in (0, 1) or size % 10 >= world:
        assert shares == [sorted(batch) for batch in one]
    else:
        # Too few samples for every rank to get one: they join the batch before.
        assert shares == [*map(sorted, one[:-2]), sorted(one[-2] + one[-1])]
    assert sorted(chain.from_iterable(shares)) == list(range(size))
    assert all(batch for batches in ranks for batch in batches)
    assert all(len(batch) > 1 for batch in one)


def test_batches_of_one_image_stay_where_they_are_asked_for() -> None:
    assert [len(batch) for batch in TrainBatches(3, 1, 42)] == [1, 1, 1]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    batches = TrainBatches(50, 8, 42)
    first = list(batches)
    np.random.seed(1)
    assert list(batches) == first
    batches.set_epoch(1)
    second = list(batches)
    assert second != first
    assert list(TrainBatches(50, 8, 42, epoch=1)) == second
    assert list(TrainBatches(50, 8, 43)) != first


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(UserError, match=r"`data.batch_size`.*number of processes"):
        TrainBatches(100, 2, 42, world=3)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_blocks_are_fixed_and_each_is_met_once(world: int) -> None:
    expected = [list(range(4)), list(range(4, 8)), list(range(8, 11))]
    ranks = [BlockBatches(11, 4, rank=rank, world=world) for rank in range(world)]
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]
    assert sorted(chain.from_iterable(ranks)) == expected


def test_done_blocks_are_left_out_and_the_rest_dealt_out_anew() -> None:
    ranks = [list(BlockBatches(50, 10, done=[0, 3], rank=rank, world=2)) for rank in range(2)]
    assert [[batch[0] // 10 for batch in batches] for batches in ranks] == [[1, 4], [2]]
    assert list(BlockBatches(50, 10, done=range(5))) == []
