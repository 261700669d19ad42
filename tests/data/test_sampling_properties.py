"""Over any number of processes every sample is met exactly once."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency_lab.data.sampling import BlockBatches, TrainBatches
from saliency_lab.data.selection import balanced, held_out

WORLDS = st.integers(1, 9)
SIZES = st.integers(1, 200)


@given(SIZES, st.integers(1, 60), WORLDS, st.data())
def test_blocks_of_all_ranks_are_the_pending_samples_once(size, block, world, data) -> None:
    count = -(-size // block)
    done = data.draw(st.sets(st.integers(0, count - 1)))
    ranks = [list(BlockBatches(size, block, done=done, rank=r, world=world)) for r in range(world)]
    met = sorted(chain.from_iterable(chain.from_iterable(ranks)))
    assert met == [index for index in range(size) if index // block not in done]
    for batch in chain.from_iterable(ranks):
        # Each is one block, in order.
        assert {index // block for index in batch} == {batch[0] // block}
        assert batch == list(range(batch[0], batch[-1] + 1))
    # Nobody has two blocks more than another.
    lengths = [len(batches) for batches in ranks]
    assert max(lengths) - min(lengths) <= 1


@given(SIZES, st.integers(1, 60), WORLDS, st.integers(0, 5), st.integers(0, 2**31))
def test_an_epoch_of_all_ranks_is_a_permutation(size, batch_size, world, epoch, seed) -> None:
    if min(size, batch_size) < world:
        world = min(size, batch_size)
    ranks = [
        list(TrainBatches(size, batch_size, seed, rank=rank, world=world, epoch=epoch))
        for rank in range(world)
    ]
    # As many steps for each, or they would wait for one another for ever.
    assert len({len(batches) for batches in ranks}) == 1
    assert all(batch for batches in ranks for batch in batches)
    met = list(chain.from_iterable(chain.from_iterable(ranks)))
    assert sorted(met) == list(range(size))
    whole = list(chain.from_iterable(TrainBatches(size, batch_size, seed, epoch=epoch)))
    order = np.random.default_rng([seed, epoch]).permutation(size)
    assert whole == order.tolist()


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)


@given(LABELS, st.integers(1, 70), st.integers(0, 1000))
def test_a_limit_is_as_equal_over_the_classes_as_they_allow(labels, count, seed) -> None:
    rows = balanced(labels, count, (seed,))
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == min(count, len(labels))
    available, taken = (np.bincount(found, minlength=6) for found in (labels, labels[rows]))
    assert (taken <= available).all()
    # A class has fewer than another only where it has no more.
    short = taken < available
    if short.any():
        assert taken.max() - taken[short].min() <= 1


@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 1000))
def test_what_is_held_out_is_of_every_class_and_the_rest_is_kept(labels, share, seed) -> None:
    ids = [f"image/{number}" for number in range(len(labels))]
    kept, held = held_out(labels, ids, share, (seed,))
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label in set(labels.tolist()):
        number, out = int((labels == label).sum()), int((labels[held] == label).sum())
        assert (1 if number > 1 else 0) <= out <= max(number - 1, 0)
    # By its id alone: the order of the rows is nothing to it.
    turned = held_out(labels[::-1], ids[::-1], share, (seed,))[1]
    assert sorted(len(labels) - 1 - turned) == held.tolist()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_of_a_batch_take_turns(world: int) -> None:
    (whole,) = TrainBatches(10, 10, 7)
    shares = [next(iter(TrainBatches(10, 10, 7, rank=r, world=world))) for r in range(world)]
    assert shares == [whole[rank::world] for rank in range(world)]
