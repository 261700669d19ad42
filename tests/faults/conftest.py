"""Runs that stop at a given point: a method that waits, fails or fills the disk when told to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# Told by environment variables, since its settings would make another run of it.
METHOD = '''
import os
import time
from pathlib import Path

from saliency_lab.attribution.methods.gradient import gradient

calls = 0


def told(variable):
    rank, _, call = os.environ.get(variable, "0:-1").rpartition(":")
    return rank in ("", os.environ.get("RANK", "0")) and int(call) == calls


def gated(model, images, *, generator=None):
    """The gradient; notes what it is asked for, and stops where it is told to."""
    global calls
    calls += 1
    with open("asked.txt", "a") as file:
        print(*generator.sample_ids, file=file, flush=True)
    if told("WAIT_AT"):
        gate = Path(f"waiting-{os.environ.get('RANK', '0')}")
        gate.write_text(str(os.getpid()))
        while gate.exists():
            time.sleep(0.05)
    if told("FAIL_AT"):
        raise RuntimeError("the method is broken")
    if told("FILL_AT"):
        fill(Path(os.environ["FILL"]))
    return gradient(model, images)


def fill(path):
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
'''

IMAGES, BLOCK = 40, 5
KEYS = ["sample_id", "view", "mode", "fill", "fraction"]


@pytest.fixture
def evaluate(
    tmp_path: Path, classifier_file: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """The words of an evaluation of 8 blocks with the gated method."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "gated_method", raising=False)
    (tmp_path / "gated_method.py").write_text(METHOD)
    (tmp_path / "own" / "method").mkdir(parents=True)
    (tmp_path / "own" / "method" / "gated.yaml").write_text(
        "name: gated\n_target_: gated_method.gated\n"
    )
    (tmp_path / "untrained.ckpt").hardlink_to(classifier_file)
    return (
        "evaluate", "--config-dir", "own", "method=gated", "ckpt=untrained.ckpt",
        f"data.test_images={IMAGES}", "data.train_images=20", f"block_size={BLOCK}",
        "examples=10", "trainer.accelerator=cpu", "trainer.threads=1", "logger=none",
    )  # fmt: skip


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[], list[str]]:
    """The samples that the method was asked for since the last call."""

    def samples() -> list[str]:
        path = tmp_path / "asked.txt"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    return samples


@pytest.fixture
def rows_below(tmp_path: Path) -> Callable[[str], pd.DataFrame]:
    """The rows of the only finished evaluation below an output root, sorted."""

    def rows(root: str) -> pd.DataFrame:
        (path,) = (tmp_path / root).glob("evaluate/*/*/*/*/deletion.parquet")
        found = pd.read_parquet(path)
        return found.sort_values(KEYS, ignore_index=True).astype({"view": str, "fill": str})

    return rows


@pytest.fixture
def whole(
    evaluate: tuple[str, ...],
    command: Callable[..., Any],
    rows_below: Callable[[str], pd.DataFrame],
    asked: Callable[[], list[str]],
) -> pd.DataFrame:
    """The rows of the evaluation that nothing disturbs."""
    outcome = command(*evaluate, "output_root=undisturbed")
    assert outcome.code == 0, outcome.err
    assert len(asked()) == IMAGES
    return rows_below("undisturbed")
