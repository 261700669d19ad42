"""Blocks of rows on disk: what counts as done, and what is merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.rows.shards import Shards


def frame(*indices: int) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": [f"test/{i}" for i in indices], "index": list(indices)})


def test_blocks_merge_in_the_order_of_samples(tmp_path: Path) -> None:
    shards = Shards(tmp_path, size=5, block=2)
    shards.write(2, frame(4), {"images": 1}, {"ids": np.array(["test/4"])})
    shards.write(0, frame(0, 1), {"images": 2}, {"ids": np.array(["test/0"])})
    assert shards.done() == [0, 2]
    shards.write(1, frame(2, 3), {"images": 2}, None)
    assert shards.rows()["index"].tolist() == [0, 1, 2, 3, 4]
    assert [meta["images"] for meta in shards.metas()] == [2, 2, 1]
    assert shards.examples()["ids"].tolist() == ["test/0", "test/4"]
    shards.clear()
    assert shards.done() == []


def test_a_truncated_block_is_named_and_not_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = Shards(tmp_path, size=4, block=2)
    shards.write(0, frame(0, 1), {}, None)
    shards.write(1, frame(2, 3), {}, None)
    whole = shards.path(1).read_bytes()
    shards.path(1).write_bytes(whole[: len(whole) // 2])
    assert shards.done() == [0]
    assert shards.path(1).name in caplog.text


def test_blocks_of_another_size_are_not_done(tmp_path: Path) -> None:
    Shards(tmp_path, size=4, block=2).write(0, frame(0, 1), {}, None)
    assert Shards(tmp_path, size=4, block=3).done() == []


def test_a_block_with_truncated_examples_is_not_done(tmp_path: Path) -> None:
    shards = Shards(tmp_path, size=4, block=2)
    for number, ids in enumerate(((0, 1), (2, 3))):
        shards.write(number, frame(*ids), {}, {"ids": np.array(ids)})
    assert shards.done() == [0, 1]
    examples = shards.path(1).with_suffix(".npz")
    examples.write_bytes(examples.read_bytes()[:-40])
    assert shards.done() == [0]


def test_a_block_without_rows_takes_part_in_the_merge(tmp_path: Path) -> None:
    shards = Shards(tmp_path, size=6, block=2)
    shards.write(0, pd.DataFrame(columns=["sample_id", "index"]), {"images": 2}, None)
    shards.write(1, frame(2, 3), {"images": 2}, None)
    shards.write(2, pd.DataFrame(columns=["sample_id", "index"]), {"images": 2}, None)
    found = shards.rows()
    assert found["index"].tolist() == [2, 3]
    assert found["index"].dtype == np.int64
    empty = Shards(tmp_path / "none", size=2, block=2)
    empty.write(0, pd.DataFrame(columns=["sample_id", "index"]), {"images": 2}, None)
    assert empty.rows().empty


def test_whose_rows_a_block_holds(tmp_path: Path) -> None:
    shards = Shards(tmp_path, size=4, block=2)
    shards.write(1, frame(2, 3), {"images": 2, "pixels": "2,3"}, {"ids": np.array([2])})
    ids = [f"test/{number}" for number in range(4)]

    def same(places: Sequence[int]) -> str:
        return ",".join(map(str, places))

    assert shards.is_of(1, ids, same)
    assert not shards.is_of(1, ids, lambda places: "others")
    assert not shards.is_of(1, ["test/new", *ids], same)
    assert not shards.is_of(1, ids[:3], same)
    shards.write(1, frame(2, 3), {"images": 2}, None)
    assert shards.is_of(1, ids, lambda places: "not known of blocks of before")
    shards.discard(1)
    assert shards.done() == []
    assert list(tmp_path.iterdir()) == []
