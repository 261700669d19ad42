"""Training that is interrupted, or that loses one of its processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

MODEL = """
import os
import time
from pathlib import Path

from torch import nn


class Gate(nn.Module):
    batches = 0

    def forward(self, x):
        if self.training:
            Gate.batches += 1
            rank, _, batch = os.environ.get("WAIT_AT", "0:-1").rpartition(":")
            if rank == os.environ.get("RANK", "0") and int(batch) == Gate.batches:
                Path("waiting").write_text(str(os.getpid()))
                time.sleep(600)
        return x


def gate(num_classes):
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(8), nn.Flatten(), Gate(), nn.Linear(192, num_classes)
    )
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (tmp_path / "gate_model.py").write_text(MODEL)
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "gate.yaml").write_text("_target_: gate_model.gate\nname: gate\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return (
        "train", "--config-dir", "own", "model=gate", "data.train_images=40",
        "data.test_images=20", "data.batch_size=20", "trainer.max_epochs=3",
        "trainer.accelerator=cpu", "logger=none",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", ["Ctrl-C", "Ctrl-C for two", "one of two killed"])
def test_the_same_command_goes_on_from_the_last_epoch(
    way: str, tmp_path: Path, words, start, command
) -> None:
    several = () if way == "Ctrl-C" else ("trainer=ddp", "trainer.devices=2")
    waiting = tmp_path / "waiting"
    # In the second epoch of two batches each; the other process waits for its gradients.
    run = start(*words, *several, WAIT_AT="1:4" if several else "0:4")
    run.wait_for(lambda: waiting.exists() and waiting.read_text())
    told = time.monotonic()
    if way == "one of two killed":
        os.kill(int(waiting.read_text()), signal.SIGKILL)
        assert run.end() == 1
        assert "was killed by SIGKILL and the others were stopped" in run.read()
    else:
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
        assert run.read().endswith("rerun the same command to resume.\n")
    assert time.monotonic() - told < 60
    assert "Traceback" not in run.read()
    (last,) = tmp_path.rglob("last.ckpt")

    again = command(*words)
    assert again.code == 0, again.err
    assert f"resuming from {last}" in again.err
    assert pd.read_csv(last.parents[1] / "metrics.csv")["epoch"].tolist() == [1, 2, 3]
