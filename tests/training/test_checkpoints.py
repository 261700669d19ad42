"""Damaged checkpoints, what is in them, and where a run says how far it is."""

from __future__ import annotations

import itertools
import json
import logging
import math
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.runs.progress import clock_text, rate_text
from saliency_lab.training import progress
from saliency_lab.training.checkpoints import Checkpoints, newest_checkpoint

WORDS = (
    "train",
    "data.train_images=60",
    "data.test_images=20",
    "trainer.max_epochs=3",
    "trainer=cpu",
    "logger=none",
)


@pytest.fixture
def run(command, tmp_path):
    """A finished run of three epochs."""
    outcome = command(*WORDS)
    assert outcome.code == 0, outcome.err
    (summary,) = tmp_path.glob("outputs/**/summary.json")
    return summary.parent


def plain(value):
    """Whether a value holds plain containers, numbers, text and tensors only."""
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)


def test_what_a_finished_run_leaves(run):
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names >= {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "config.yaml",
        "environment.json",
        "figures/confusion.png",
        "figures/training.png",
        "metrics.csv",
        "summary.json",
        "train.log",
    }
    assert not [name for name in names if ".part" in name]
    summary = json.loads((run / "summary.json").read_text())
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2, 3] == list(range(1, summary["epochs"] + 1))
    assert metrics["lr"].tolist() == [1e-3] * 3
    assert summary["train"]["loss"] == pytest.approx(metrics["train/loss"].iloc[-1])
    assert summary["best"]["value"] == metrics["train/loss"].min()
    test = summary["test"]
    assert sum(map(sum, summary["confusion"])) == test["images"] == 20
    right = sum(summary["confusion"][c][c] for c in range(10))
    assert test["accuracy"] == right / 20
    # Wilson's interval by hand: centre ± half-width.
    z = 1.959963984540054
    centre = (right + z * z / 2) / (20 + z * z)
    half = z * (right * (20 - right) / 20 + z * z / 4) ** 0.5 / (20 + z * z)
    assert (test["low"], test["high"]) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert summary["model"]["parameters"] == 495_146


def test_checkpoints_hold_plain_containers_and_stand_alone(run):
    for name in ("last", "previous", "best"):
        path = run / "checkpoints" / f"{name}.ckpt"
        content = torch.load(path, weights_only=True)
        for key in ("facts", "epoch", "callbacks", "optimizer_states", "lr_schedulers"):
            assert plain(content[key]), key
        facts = load_classifier(path).facts
        assert len(facts["classes"]) == 10
        assert facts["fingerprint"]


def test_a_truncated_checkpoint_is_named_and_the_one_before_used(run, caplog):
    last, previous = (run / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    assert newest_checkpoint(run) == last
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(run) == previous
    assert str(last) in caplog.text
    assert "truncated" in caplog.text
    previous.write_text("no checkpoint")
    assert newest_checkpoint(run) is None


@pytest.mark.parametrize("left", [b"PK", None])
def test_the_same_end_from_the_checkpoint_before(left, run, command):
    # As if the first epoch had been the best one, and a kill had come then.
    path = run / "checkpoints" / "previous.ckpt"
    content = torch.load(path, weights_only=True)
    (name,) = content["callbacks"]
    content["callbacks"][name]["best"] = {"epoch": 1, "monitor": "train/loss", "value": 0.0}
    path.unlink()
    torch.save(content, path)
    best = (run / "checkpoints" / "best.ckpt").read_bytes()
    before = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    metrics = (run / "metrics.csv").read_text()
    (run / "checkpoints" / "last.ckpt").unlink()
    if left:
        (run / "checkpoints" / "last.ckpt").write_bytes(left)
    (run / "summary.json").write_text('{"status": "running"}')
    outcome = command(*WORDS)
    assert outcome.code == 0, outcome.err
    assert ("last.ckpt' is truncated" in outcome.err) == bool(left)
    assert "previous.ckpt" in outcome.err
    assert (run / "checkpoints" / "best.ckpt").read_bytes() == best
    # Two epochs old by then, and whole.
    assert torch.load(path, weights_only=True)["epoch"] == 1
    after = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    shown = ["epoch", "train/loss", "train/accuracy"]
    again = pd.read_csv(run / "metrics.csv")[shown]
    (run / "before.csv").write_text(metrics)
    pd.testing.assert_frame_equal(again, pd.read_csv(run / "before.csv")[shown])


@pytest.fixture
def begun(command, tmp_path):
    """The words of an unfinished run of a folder of images, and that folder."""
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "test"), "abc", range(3)):
        path = root / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    words = ("train", "data=folder", f"data.root={root}", "data.size=16", "trainer.max_epochs=1")
    words = (*words, "trainer=cpu", "logger=none")
    assert command(*words).code == 0
    (summary,) = tmp_path.glob("outputs/**/summary.json")
    summary.write_text('{"status": "running"}')
    return words, root


def test_other_classes_are_not_those_that_a_run_was_begun_with(begun, command):
    words, root = begun
    for split in ("train", "test"):
        (root / split / "a").rename(root / split / "z")
    renamed = command(*words)
    assert renamed.code == 2
    assert "to have the classes that" in renamed.err
    assert "a, b, c, but got b, c, z" in renamed.err
    for split in ("train", "test"):
        shutil.rmtree(root / split / "z")
    fewer = command(*words)
    assert fewer.code == 2
    assert "a, b, c, but got b, c;" in fewer.err


def test_other_images_of_the_same_classes_are_told(begun, command):
    words, root = begun
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "9.png")
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    assert "the training images are others than those that" in outcome.err


def test_a_class_s_name_is_no_formula(begun, command):
    words, root = begun
    for split in ("train", "test"):
        (root / split / "a").rename(root / split / "cost $x_{$")
    outcome = command(*words, "overwrite=true")
    assert outcome.code == 0, outcome.err


def test_progress_lines_say_loss_accuracy_rate_and_time_left(command, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    outcome = command(*WORDS, "data.batch_size=20")
    assert outcome.code == 0
    lines = [line for line in outcome.err.splitlines() if "batch " in line and "epoch" in line]
    assert len(lines) == 9
    pattern = r"epoch 1/3  loss \d\.\d{4}  accuracy \d\.\d{4}  [\d,]+ images/s  \d+:\d\d left  "
    assert pd.Series(lines[:1]).str.contains(pattern + "batch 1/9").all(), lines[0]
    assert "epoch 3/3" in lines[-1]
    assert "0:00 left" in lines[-1]


def test_no_progress_where_none_is_wanted(command, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    outcome = command(*WORDS, "trainer.progress=off")
    assert outcome.code == 0
    assert "images/s  " not in outcome.err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")]
)
def test_time_left_is_read_as_a_clock(seconds, text):
    assert clock_text(seconds) == text


def test_time_left_is_of_the_whole_run(monkeypatch, caplog):
    """Half of the batches in ten seconds: ten seconds are left."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    report = progress.ProgressReport("lines")
    report._begin(trainer, 20)
    for _ in range(9):
        report._done += 1
    report._done += 1
    clock[0] = 110.0
    with caplog.at_level(logging.INFO):
        report._say("epoch 1/2", 64)
    assert "64 images/s  0:10 left  batch 10/20" in caplog.text


@pytest.mark.parametrize(
    ("images", "text"), [(0.2345, "0.23"), (3.14, "3.1"), (64.4, "64"), (12345.6, "12,346")]
)
def test_slow_rates_are_not_told_as_zero(images, text):
    assert rate_text(images) == text


def test_an_epoch_without_a_loss_is_not_the_best_for_ever(tmp_path):
    kept = Checkpoints(tmp_path)
    for epoch, loss in enumerate((math.nan, 0.9, math.nan, 0.5, 0.7), 1):
        kept.history.append({"epoch": epoch, "train/loss": loss})
        kept._improved()
        assert kept.best["epoch"] == {1: 1, 2: 2, 3: 2, 4: 4, 5: 4}[epoch]


def test_a_training_that_diverges_is_told_in_one_line(command):
    outcome = command(*WORDS, "optimizer.lr=1e30")
    assert outcome.code == 2, outcome.err
    assert "Expected the training to keep finite weights" in outcome.err.splitlines()[-1]
