"""Evaluations that are killed, interrupted or started twice, and the same command after it."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

IMAGES, BLOCK, BLOCKS = 40, 5, 8
GOING_ON = "resuming: {} of 8 blocks already done"


def parts_below(root: Path) -> list[Path]:
    return sorted(root.rglob("shards/maps/*.parquet"))


@pytest.mark.slow
def test_a_killed_evaluation_computes_only_the_rest(
    tmp_path: Path, evaluate, whole, start, command, asked, rows_below
) -> None:
    gate = tmp_path / "waiting-0"
    for killed_at, done in ((1, 0), (4, 3)):
        run = start(*evaluate, WAIT_AT=f"{killed_at}")
        run.wait_for(gate.exists)
        run.process.kill()
        run.end()
        gate.unlink()
        assert len(parts_below(tmp_path / "outputs")) == done
        assert len(asked()) == killed_at * BLOCK
    # The same run twice at once: the second says who holds it, and harms nothing.
    run = start(*evaluate, WAIT_AT="2")
    run.wait_for(gate.exists)
    assert GOING_ON.format(3) in run.read()
    second = command(*evaluate)
    assert second.code == 2
    holder = rf"error: '{tmp_path}/outputs/.*' is in use by process {run.process.pid} on "
    assert re.match(holder, second.err.splitlines()[-1]), second.err
    # Ctrl-C.
    told = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert time.monotonic() - told < 30
    assert "Interrupted; rerun the same command to resume." in run.read()
    assert len(parts_below(tmp_path / "outputs")) == 4
    asked()

    (truncated, *_) = parts_below(tmp_path / "outputs")
    os.truncate(truncated, truncated.stat().st_size // 2)
    last = command(*evaluate)
    assert last.code == 0, last.err
    assert f"ignoring {truncated}, which is truncated" in last.err
    assert GOING_ON.format(3) in last.err
    assert sorted(asked()) == sorted(
        f"shapes/test/{i}" for i in (*range(BLOCK), *range(4 * BLOCK, IMAGES))
    )
    pd.testing.assert_frame_equal(rows_below("outputs"), whole)
    left = {path.name for path in (tmp_path / "outputs").rglob("*") if path.is_file()}
    assert not [name for name in left if ".part" in name or name == ".holder.json"]


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_same_command_goes_on(
    tmp_path: Path, evaluate, whole, start, asked, rows_below
) -> None:
    words = (*evaluate, "trainer=ddp", "trainer.devices=2")
    gate = tmp_path / "waiting-1"
    run = start(*words, WAIT_AT="1:3")
    run.wait_for(lambda: gate.exists() and gate.read_text())
    victim = int(gate.read_text())
    os.kill(victim, signal.SIGKILL)
    told = time.monotonic()
    assert run.end() == 1
    assert time.monotonic() - told < 60
    line = run.read().splitlines()[-1]
    assert line.startswith(f"error: process 1 of 2 (pid {victim}) was killed by SIGKILL"), line
    assert "Traceback" not in run.read()

    asked()
    before = len(parts_below(tmp_path / "outputs"))
    assert before >= 2
    run = start(*words)
    assert run.end() == 0, run.read()
    assert len(asked()) == (BLOCKS - before) * BLOCK
    pd.testing.assert_frame_equal(rows_below("outputs"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(
    by: signal.Signals, tmp_path: Path, evaluate, start
) -> None:
    gate = tmp_path / "waiting-1"
    run = start(*evaluate, "trainer=ddp", "trainer.devices=2", WAIT_AT="1:1")
    run.wait_for(lambda: gate.exists() and gate.read_text())
    ranks = psutil.Process(run.process.pid).children()
    assert len(ranks) == 2
    run.process.send_signal(by)
    assert run.end(60) == (130 if by == signal.SIGINT else -signal.SIGKILL)
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    assert ("Interrupted; rerun the same command to resume" in run.read()) == (by == signal.SIGINT)
    assert "Traceback" not in run.read()
