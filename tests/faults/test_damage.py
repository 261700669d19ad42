"""Files that were cut short: named, not used, and made again or replaced by the one before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

TRAIN = (
    "train", "data.train_images=20", "data.test_images=40", "data.batch_size=20",
    "trainer.max_epochs=3", "trainer=cpu", "logger=none",
)  # fmt: skip


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_checkpoint(tmp_path: Path, command) -> None:
    assert command(*TRAIN).code == 0
    (last,) = tmp_path.rglob("last.ckpt")
    cut_short(last)
    words = (*(w for w in TRAIN[1:] if not w.startswith("data.batch")), "data.batch_size=20")
    outcome = command("evaluate", *words)
    assert outcome.code == 0, outcome.err
    said = f"{last} is truncated: taking the one of the epoch before, previous.ckpt"
    assert outcome.err.count(said) == 1
    summary = json.loads(next(tmp_path.glob("outputs/evaluate/**/summary.json")).read_text())
    assert summary["checkpoint"]["path"] == str(last.with_name("previous.ckpt"))
    cut_short(last.with_name("previous.ckpt"))
    outcome = command("evaluate", *words, f"ckpt={last}", "overwrite=true")
    assert outcome.code == 2
    *_, line = outcome.err.splitlines()
    assert line.startswith("error: Expected `ckpt` to be a readable checkpoint")
    assert str(last) in line


def test_an_unfinished_training_is_resumed_or_named(tmp_path: Path, command) -> None:
    assert command(*TRAIN, "data.limit=10").code == 0
    (summary,) = tmp_path.rglob("summary.json")
    summary.write_text('{"status": "running"}')
    outcome = command("evaluate", *TRAIN[1:])
    assert outcome.code == 2
    *_, line = outcome.err.splitlines()
    assert line.endswith("trainer.max_epochs=3 data.limit=10")
    outcome = command("evaluate", f"run={summary.parent}", "data.limit=10", "logger=none")
    assert outcome.code == 0, outcome.err
    said = f"the training in {summary.parent} is unfinished: taking its newest checkpoint"
    assert outcome.err.count(said) == 1


def test_rows_and_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate, whole, command, rows_below, asked
) -> None:
    # A cache of its own: the one that tests share holds images of other settings, too.
    cache_dir = tmp_path / "cache"
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(cache_dir))
    assert command(*evaluate).code == 0
    assert len(asked()) == 40
    (rows,) = (tmp_path / "outputs").glob("evaluate/*/*/*/*/deletion.parquet")
    cut_short(rows)
    (cache,) = cache_dir.glob("shapes-test-*/images.npy")
    cut_short(cache)
    again = command(*evaluate)
    assert again.code == 0, again.err
    assert f"{rows} is truncated or missing: rebuilding it" in again.err
    assert f"The image cache {cache.parent} is corrupt" in again.err
    assert len(asked()) == 40
    pd.testing.assert_frame_equal(rows_below("outputs"), whole)
    assert "already finished" in command(*evaluate).out
