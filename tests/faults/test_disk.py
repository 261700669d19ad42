"""Disks that are really full: small file systems that the run itself fills up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

MODEL = """
import os
from pathlib import Path

from gated_method import fill
from torch import nn


class Filling(nn.Module):
    batches = 0

    def forward(self, x):
        if self.training:
            Filling.batches += 1
            if os.environ.get("FILL_AT") == str(Filling.batches):
                fill(Path(os.environ["FILL"]))
        return x


def wide(num_classes):
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 1000), nn.ReLU(),
        Filling(), nn.Linear(1000, num_classes),
    )
"""
Disk = Callable[[str], Path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of a given size at `tmp_path / "small"`; called again, it is resized."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = False

    def sized(size: str) -> Path:
        nonlocal mounted
        options = f"size={size}" if not mounted else f"remount,size={size}"
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
        mounted = True
        return place

    yield sized
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_rows(
    small_disk: Disk, evaluate, whole, command, rows_below, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_disk("8m")
    monkeypatch.setenv("FILL", str(root / "ballast"))
    monkeypatch.setenv("FILL_AT", str(8 + 3))  # the undisturbed run had eight blocks
    full = command(*evaluate, f"output_root={root}")
    assert full.code == 2, full.err
    *_, line = full.err.splitlines()
    assert line.startswith(f"error: No space left on the disk while writing {root}/evaluate/")
    assert "Logging error" not in full.err
    assert "Traceback" not in full.err
    parts = sorted(root.rglob("shards/deletion/*.parquet"))
    assert len(parts) == 2
    for part in parts:
        assert pq.read_table(part).num_rows == 5 * 2 * 13

    (root / "ballast").unlink()
    monkeypatch.delenv("FILL_AT")
    again = command(*evaluate, f"output_root={root}")
    assert again.code == 0, again.err
    assert "resuming: 2 of 8 blocks already done" in again.err
    pd.testing.assert_frame_equal(rows_below(str(root)), whole)


def test_checkpoint(
    small_disk: Disk, evaluate, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filling_model.py").write_text(MODEL)
    (tmp_path / "own" / "model").mkdir()
    (tmp_path / "own" / "model" / "wide.yaml").write_text(
        "_target_: filling_model.wide\nname: wide\n"
    )
    root = small_disk("12m")
    words = (
        "train", "--config-dir", "own", "model=wide", "data.train_images=40",
        "data.test_images=20", "data.batch_size=20", "trainer.max_epochs=4", "trainer=cpu",
        "logger=none", f"output_root={root}",
    )  # fmt: skip
    monkeypatch.setenv("FILL", str(root / "ballast"))
    monkeypatch.setenv("FILL_AT", "6")  # in the third epoch of two batches each
    full = command(*words)
    assert full.code == 2, full.err
    *_, line = full.err.splitlines()
    (kept,) = root.rglob("last.ckpt")
    assert line.startswith(f"error: No space left on the disk while writing {kept}")
    assert "Traceback" not in full.err
    for name in ("last", "previous"):
        assert torch.load(kept.with_name(f"{name}.ckpt"), weights_only=True)["state_dict"]

    (root / "ballast").unlink()
    monkeypatch.delenv("FILL_AT")
    again = command(*words)
    assert again.code == 0, again.err
    assert f"resuming from {kept}" in again.err
    assert len(pd.read_csv(kept.parents[1] / "metrics.csv")) == 4


def test_cache(
    small_disk: Disk, evaluate, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = small_disk("64k")  # forty images are 120 kB
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(cache))
    full = command(*evaluate)
    assert full.code == 2, full.err
    *_, line = full.err.splitlines()
    assert line.startswith(f"error: No space left on the disk while writing {cache}/shapes-test-")
    small_disk("4m")
    again = command(*evaluate)
    assert again.code == 0, again.err
    (made,) = cache.glob("shapes-test-*/images.npy")
    assert os.path.getsize(made) > 40 * 3 * 32 * 32
