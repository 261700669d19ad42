"""Blocks partition the samples, whatever their size; what is half written is not done."""

from __future__ import annotations

import logging
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency_lab.evaluation.rows.shards import Shards

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 120))


def span(path: Path) -> tuple[int, int]:
    start, stop = path.stem.split("-")
    return int(start), int(stop)


def frame(start: int, stop: int) -> pd.DataFrame:
    numbers = range(start, stop)
    return pd.DataFrame({"sample_id": [f"test/{i}" for i in numbers], "index": list(numbers)})


@given(SIZES)
def test_blocks_partition_the_samples(sizes: tuple[int, int]) -> None:
    size, block = sizes
    shards = Shards(Path("nowhere"), size, block)
    spans = [span(shards.path(number)) for number in range(shards.count)]
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(one[1] == other[0] for one, other in pairwise(spans))
    assert all(stop - start == block for start, stop in spans[:-1])
    assert 0 < spans[-1][1] - spans[-1][0] <= block


@given(SIZES, st.integers(1, 120))
def test_two_block_sizes_share_a_file_only_where_the_samples_are_the_same(sizes, other) -> None:
    size, block = sizes
    one, two = (Shards(Path("nowhere"), size, length) for length in (block, other))
    for number in range(min(one.count, two.count)):
        same = one.path(number) == two.path(number)
        starts = number * block, number * other
        stops = min(starts[0] + block, size), min(starts[1] + other, size)
        assert same == (starts[0] == starts[1] and stops[0] == stops[1])


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
def test_whoever_writes_first_the_merge_is_the_same(tmp_path: Path, order: list[int]) -> None:
    shards = Shards(tmp_path, 10, 3)
    for number in order:
        start, stop = span(shards.path(number))
        examples = {"ids": np.arange(start, stop, 2), "images": np.full((1, 2), start)}
        meta = {"images": stop - start, "first": start}
        shards.write(number, frame(start, stop), meta, examples if number != 2 else None)
        assert shards.has(number)
    assert shards.done() == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(shards.rows(), frame(0, 10))
    assert list(shards.metas()) == [
        {"images": 3, "first": 0}, {"images": 3, "first": 3}, {"images": 3, "first": 6},
        {"images": 1, "first": 9},
    ]  # fmt: skip
    assert shards.examples()["ids"].tolist() == [0, 2, 3, 5, 9]
    assert shards.examples()["images"].tolist() == [[0, 0], [3, 3], [9, 9]]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_either_file_cut_short_makes_the_block_undone(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    shards = Shards(tmp_path, 4, 2)
    for number in (0, 1):
        shards.write(number, frame(2 * number, 2 * number + 2), {}, {"images": np.ones((2, 50))})
    cut = shards.path(1).with_suffix(suffix)
    os.truncate(cut, cut.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        assert shards.done() == [0]
    assert f"ignoring {cut}, which is truncated" in caplog.text
    assert not shards.has(1)


def test_a_kill_between_the_two_files_leaves_the_block_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are the last to take their name: a block that has them has its examples."""
    shards, renamed = Shards(tmp_path, 2, 2), []
    replace = os.replace

    def noting(source: Path, target: Path) -> None:
        renamed.append(Path(target).suffix)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noting)
    shards.write(0, frame(0, 2), {}, {"images": np.ones((2, 3))})
    assert renamed == [".npz", ".parquet"]
    shards.path(0).unlink()
    assert shards.done() == []


def test_clearing_takes_blocks_of_every_size(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    Shards(folder, 4, 2).write(0, frame(0, 2), {}, None)
    Shards(folder, 4, 3).clear()
    assert not folder.exists()
    Shards(folder, 4, 3).clear()
