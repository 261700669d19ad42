"""W&B without a login, without a network, and with its process killed on the way."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import psutil
import pytest


@pytest.mark.slow
def test_an_unreachable_server_means_an_offline_record(
    tmp_path: Path, evaluate, whole, start, rows_below
) -> None:
    words = (*evaluate, "logger=wandb", "logger.timeout=2")
    began = time.monotonic()
    run = start(
        *words, WANDB_MODE="online", WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9"
    )
    assert run.end() == 0, run.read()
    assert time.monotonic() - began < 100
    assert "W&B records offline: " in run.read()
    assert list((tmp_path / "outputs").rglob("offline-run-*/*.wandb"))
    pd.testing.assert_frame_equal(rows_below("outputs"), whole)


@pytest.mark.slow
def test_its_process_dies_and_the_run_goes_on(
    tmp_path: Path, evaluate, whole, start, rows_below, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where this process has used wandb, the run would share its service and start none.
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    gate = tmp_path / "waiting-0"
    home = {"HOME": str(tmp_path), "WANDB_API_KEY": ""}
    run = start(*evaluate, "logger=wandb", WAIT_AT="3", **home)
    run.wait_for(gate.exists)
    core = [
        child
        for child in psutil.Process(run.process.pid).children(recursive=True)
        if "wandb" in child.name()
    ]
    assert core
    for process in core:
        process.kill()
    gate.unlink()
    assert run.end() == 0, run.read()
    assert "Traceback" not in run.read()
    pd.testing.assert_frame_equal(rows_below("outputs"), whole)
