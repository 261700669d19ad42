"""Ranks on disk: what is there is not made again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from saliency_lab.evaluation.retraining.ranks import KeptRanks


@pytest.fixture
def kept(tmp_path):
    return KeptRanks(tmp_path / "ranks", ("original", "active"), 7, (2, 3), chunk=3)


def ranks_of(kept, number, view="original"):
    rng = np.random.default_rng([number, len(view)])
    return np.stack([rng.permutation(6).reshape(2, 3) for _ in kept.positions(number)])


def written(kept, number):
    for view in kept.views:
        kept.write(view, number, ranks_of(kept, number, view))


def test_chunks_are_missing_until_they_are_written_and_come_back_by_view(kept):
    assert kept.missing() == [0, 1, 2]
    written(kept, 1)
    assert kept.missing() == [0, 2]
    for number in (0, 2):
        written(kept, number)
    assert kept.missing() == []
    for view in kept.views:
        found = list(kept.of(view))
        assert [list(positions) for positions, _ in found] == [[0, 1, 2], [3, 4, 5], [6]]
        for number, (_, ranks) in enumerate(found):
            assert ranks.dtype == np.int64
            assert np.array_equal(ranks, ranks_of(kept, number, view))


def test_another_view_is_missing_where_one_is_there(kept):
    for number in range(3):
        kept.write("active", number, ranks_of(kept, number))
    assert kept.missing() == [0, 1, 2]
    assert dataclasses.replace(kept, views=("active",)).missing() == []


def test_a_damaged_chunk_or_one_of_other_images_is_made_again(kept):
    for number in range(3):
        written(kept, number)
    damaged = kept.folder / "original" / "000001.npy"
    damaged.write_bytes(damaged.read_bytes()[:90])
    kept.write("active", 2, ranks_of(kept, 0))
    assert kept.missing() == [1, 2]


def test_large_images_need_more_than_two_bytes(tmp_path):
    for side, wanted in ((256, np.uint16), (257, np.uint32)):
        kept = KeptRanks(tmp_path / str(side), ("original",), 1, (side, side))
        ranks = np.arange(side * side).reshape(1, side, side)
        kept.write("original", 0, ranks)
        assert np.load(kept.folder / "original" / "000000.npy").dtype == wanted
        assert np.array_equal(next(iter(kept.of("original")))[1], ranks)
