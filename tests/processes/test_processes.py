"""One job on several processes: the same rows, the same weights, one directory."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

KEYS = ["sample_id", "view", "mode", "fill", "fraction"]
IMAGES = 31
ONE = ("trainer=cpu",)
SEVERAL = ("trainer=ddp", "trainer.accelerator=cpu")

# No batch norm: its statistics are each process's own.
MODEL = """
from torch import nn


def plain(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(128, num_classes),
    )
"""


@pytest.fixture
def smoothgrad(tmp_path: Path, classifier_file: Path) -> tuple[str, ...]:
    """The words of an evaluation that draws random numbers: the last block is a single image."""
    (tmp_path / "untrained.ckpt").hardlink_to(classifier_file)
    return (
        "evaluate", "method=smoothgrad", "method.samples=2", "view=paper", "ckpt=untrained.ckpt",
        f"data.test_images={IMAGES}", "data.train_images=20", "evaluator.batch_size=10",
        "evaluator.fills=[noise]", "trainer.threads=1", "logger=none",
    )  # fmt: skip


def rows_below(root: Path) -> pd.DataFrame:
    (path,) = root.glob("evaluate/*/*/*/*/deletion*.parquet")
    found = pd.read_parquet(path).sort_values(KEYS, ignore_index=True)
    assert not found.duplicated(KEYS).any()
    return found.astype({"view": str, "fill": str})


@pytest.mark.slow
def test_rows_of_one_two_and_three_processes_are_the_same(
    tmp_path: Path, smoothgrad, command: Callable, start: Callable
) -> None:
    # Three processes for two blocks: one has nothing to do.
    for count, block in ((2, 10), (3, 16)):
        words = (*smoothgrad, f"evaluator.batch_size={block}")
        one = command(*words, *ONE, f"output_root=one-{count}")
        assert one.code == 0, one.err
        run = start(*words, *SEVERAL, f"trainer.devices={count}", f"output_root=of-{count}")
        assert run.end() == 0, run.read()
        assert f"distributing {-(-IMAGES // block)} blocks over {count} processes" in run.read()
        rows = rows_below(tmp_path / f"of-{count}")
        assert rows["sample_id"].nunique() == IMAGES
        pd.testing.assert_frame_equal(rows, rows_below(tmp_path / f"one-{count}"), check_exact=True)
        assert len(list((tmp_path / f"of-{count}").rglob("summary.json"))) == 1


def under_torchrun(start: Callable, words: Sequence[str]) -> str:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
                "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0",
                "-m", "saliency_lab")  # fmt: skip
    run = start(*words, program=launcher)
    assert run.end() == 0, run.read()
    return run.read()


def under_srun(start: Callable, words: Sequence[str]) -> str:
    """Two processes with the variables that srun gives them; there is no cluster here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "saliency", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    runs = [
        start(*words, **job, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), SLURM_NODEID="0")
        for i in range(2)
    ]
    for run in runs:
        assert run.end() == 0, run.read()
    assert "wrote" not in runs[1].read()
    return runs[0].read()


@pytest.mark.slow
@pytest.mark.parametrize("launched", [under_torchrun, under_srun])
def test_processes_that_a_launcher_started(
    launched: Callable, tmp_path: Path, smoothgrad, command: Callable, start: Callable
) -> None:
    # The launcher's number of processes holds without a word of it in the configuration.
    printed = launched(start, (*smoothgrad, "trainer.accelerator=cpu"))
    assert "distributing 4 blocks over 2 processes" in printed
    one = command(*smoothgrad, *ONE, "output_root=one")
    assert one.code == 0, one.err
    pd.testing.assert_frame_equal(rows_below(tmp_path / "outputs"), rows_below(tmp_path / "one"))


@pytest.mark.slow
def test_a_sweep_of_jobs_with_two_processes_from_the_console_script(
    tmp_path: Path, smoothgrad, start: Callable, console_script: Path
) -> None:
    words = ("-m", *smoothgrad[1:], "seed=0,1", *SEVERAL, "trainer.devices=2")
    run = start(smoothgrad[0], *words, program=(str(console_script),))
    assert run.end(180) == 0, run.read()
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["evaluate"]
    found = sorted((tmp_path / "outputs").rglob("summary.json"))
    assert [re.search(r"seed.(\d)", str(path))[1] for path in found] == ["0", "1"]
    # Once more: nothing is computed, so no process is started.
    again = start(smoothgrad[0], *words, program=(str(console_script),))
    assert again.end(60) == 0
    assert again.read().count("already finished") == 2
    assert "distributing" not in again.read()


@pytest.mark.slow
def test_weights_of_two_processes_are_those_of_one(
    tmp_path: Path, command: Callable, start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain_model.py").write_text(MODEL)
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "plain.yaml").write_text(
        "_target_: plain_model.plain\nname: plain\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = (
        "train", "--config-dir", "own", "model=plain", "data.train_images=50",
        "data.test_images=21", "data.batch_size=15", "trainer.max_epochs=3", "logger=none",
        "data.validation=0.2",  # one batch: a process without a part of it would be waited for
    )  # fmt: skip
    one = command(*words, *ONE, "output_root=one")
    assert one.code == 0, one.err
    run = start(*words, *SEVERAL, "output_root=two")
    assert run.end() == 0, run.read()
    assert "2 processes, 7.5 images each per batch of 15" in run.read()

    (first,), (second,) = ((tmp_path / root).rglob("last.ckpt") for root in ("one", "two"))
    a, b = (torch.load(path, weights_only=True) for path in (first, second))
    assert a["epoch"] == b["epoch"] == 2
    for name, tensor in a["state_dict"].items():
        torch.testing.assert_close(b["state_dict"][name], tensor, rtol=1e-4, atol=1e-5)
    one_by_one, shared = (pd.read_csv(path.parents[1] / "metrics.csv") for path in (first, second))
    np.testing.assert_allclose(one_by_one["train/loss"], shared["train/loss"], rtol=1e-4)
    for name in ("train/accuracy", "val/accuracy"):
        np.testing.assert_array_equal(one_by_one[name], shared[name])
    np.testing.assert_allclose(one_by_one["val/loss"], shared["val/loss"], rtol=1e-4)
    files = {path.name for path in second.parents[1].iterdir()}
    assert files == {path.name for path in first.parents[1].iterdir()} | {"train.rank1.log"}


@pytest.mark.slow
def test_two_processes_stop_a_comparison_where_one_does(
    tmp_path: Path, classifier_file: Path, command: Callable, start: Callable
) -> None:
    (tmp_path / "untrained.ckpt").hardlink_to(classifier_file)
    words = (
        "compare", "a=[gradient/original,sobel]", "b=[sobel,random_map]", "ckpt=untrained.ckpt",
        f"data.test_images={IMAGES}", "data.train_images=20", "block_size=4",
        "condition=[black]", "tolerance=1.2", "trainer.threads=1", "logger=none",
    )  # fmt: skip
    one = command(*words, *ONE, "output_root=one")
    assert one.code == 0, one.err
    run = start(*words, *SEVERAL, "trainer.devices=2", "output_root=two")
    assert run.end() == 0, run.read()

    found = {}
    for root in ("one", "two"):
        (path,) = (tmp_path / root).rglob("compare/**/summary.json")
        rows = pd.read_parquet(path.parent / "deletion.parquet")
        found[root] = json.loads(path.read_text()), rows
    (alone, few), (shared, more) = found.values()
    assert shared["pairs"] == alone["pairs"]
    assert max(pair["images"] for pair in alone["pairs"]) < IMAGES
    # What one process measured, and perhaps the block that the other was at.
    assert 0 <= shared["drawn"] - alone["drawn"] <= 4
    pd.testing.assert_frame_equal(more.iloc[: len(few)], few)

    # Killed or widened, it goes on with any number of processes.
    again = command(*words, *ONE, "output_root=two", f"least={IMAGES}")
    assert again.code == 0, again.err
    assert f"resuming: {shared['drawn']} of {IMAGES} images" in again.out + again.err
