"""A run that is killed and started again ends as one that was never killed."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

# Everything that draws random numbers or depends on the epoch: dropout, augmentation, order,
# batch norm's statistics, a schedule, an optimizer with state.
MODEL = """
import os
import time

from torch import nn


class Slow(nn.Module):
    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ.get("SECONDS_PER_BATCH", "0")))
        return x


def tiny(num_classes: int, width: int = 8, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 5, stride=4), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout),
        Slow(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )
"""
WORDS = (
    "train", "--config-dir", "my_conf", "model=tiny", "model.dropout=0.4", "scheduler=cosine",
    "scheduler.warmup_epochs=1", "data.augment=basic", "data.train_images=96",
    "data.test_images=40", "data.batch_size=20", "data.validation=0.2", "trainer.max_epochs=4",
    "trainer=cpu", "logger=none",
)  # fmt: skip


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's own model: a module on the path and a yaml of their own."""
    (tmp_path / "tiny_model.py").write_text(MODEL)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "tiny.yaml").write_text(
        "_target_: tiny_model.tiny\nname: tiny\nwidth: 8\ndropout: 0.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def uninterrupted(own_model: Path, shared: Path, command) -> Path:
    """The run that was never killed; finished already for all tests but the first."""
    outcome = command(*WORDS, f"output_root={shared}")
    assert outcome.code == 0, outcome.err
    return run_directory(shared)


def run_directory(root: Path) -> Path:
    (found,) = root.glob("train/shapes/tiny/*")
    return found


def same_run(one: Path, other: Path) -> None:
    """Bitwise the same weights, optimizer state and best epoch; the same figures."""
    for name in ("last", "best"):
        a, b = (
            torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for run in (one, other)
        )
        assert a["epoch"] == b["epoch"]
        assert a["state_dict"].keys() == b["state_dict"].keys()
        for key, tensor in a["state_dict"].items():
            assert torch.equal(tensor, b["state_dict"][key]), key
        states = (a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"])
        for number, state in states[0].items():
            for key, tensor in state.items():
                assert torch.equal(tensor, states[1][number][key])
    measured = ["epoch", "train/loss", "train/accuracy", "lr", "val/loss", "val/accuracy"]
    tables = [pd.read_csv(run / "metrics.csv")[measured] for run in (one, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for key in ("status", "test", "train", "best", "confusion", "epochs"):
        assert summaries[0][key] == summaries[1][key], key


def test_kill_9_in_the_middle_of_an_epoch(own_model, uninterrupted, command, cache_dir):
    environment = {
        **os.environ,
        "SECONDS_PER_BATCH": "0.15",
        "SALIENCY_LAB_CACHE": str(cache_dir),
        "PYTHONPATH": os.pathsep.join([str(own_model), str(Path(__file__).parents[2])]),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "saliency_lab", *WORDS, "output_root=killed"],
        cwd=own_model,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    pattern = "killed/train/shapes/tiny/*/metrics.csv"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        found = list(own_model.glob(pattern))
        if found and len(found[0].read_text().splitlines()) >= 3:
            break
        time.sleep(0.02)
    time.sleep(0.25)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    killed = run_directory(own_model / "killed")
    assert json.loads((killed / "summary.json").read_text())["status"] == "running"

    outcome = command(*WORDS, "output_root=killed")
    assert outcome.code == 0, outcome.err
    assert "resuming from" in outcome.err
    assert "epoch 1 " not in outcome.err
    same_run(uninterrupted, killed)


class Killed(BaseException):
    """Passes every handler, as a kill does."""


# Where the process ends: the function, the file that it is called for, and which call it is.
MOMENTS = {
    "first checkpoint": ("runs.files.os.replace", "last.ckpt", 1),
    "last checkpoint": ("runs.files.os.replace", "last.ckpt", 4),
    "between a checkpoint and the best": ("training.checkpoints._link", "best.ckpt", 1),
    "between a checkpoint and its metrics": ("runs.files.os.replace", "metrics.csv", 2),
    "between the last checkpoint and its metrics": ("runs.files.os.replace", "metrics.csv", 4),
    "in the middle of an epoch": ("models.classifier.Classifier.training_step", None, 10),
    "while testing": ("models.classifier.Classifier.test_step", None, 2),
    "before the summary": ("tasks.fitting.finish", None, 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_gap_between_two_files(moment, own_model, uninterrupted, command, monkeypatch):
    path, file, call = MOMENTS[moment]
    holder_path, _, attribute = f"saliency_lab.{path}".rpartition(".")
    holder = pkgutil.resolve_name(holder_path)
    original = getattr(holder, attribute)
    calls = []

    def killing(*arguments, **keywords):
        if file is None or Path(arguments[-1]).name == file:
            calls.append(arguments)
            if len(calls) == call:
                raise Killed
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(holder, attribute, killing)
        with pytest.raises(Killed):
            command(*WORDS, "output_root=killed")
    outcome = command(*WORDS, "output_root=killed")
    assert outcome.code == 0, outcome.err
    same_run(uninterrupted, run_directory(own_model / "killed"))
