"""Trainings that cannot go on end with one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

WORDS = ("train", "data.test_images=20", "trainer.max_epochs=1", "trainer=cpu", "logger=none")


def test_a_last_batch_of_one_image_is_no_fault(command, tmp_path: Path) -> None:
    outcome = command(*WORDS, "data.train_images=21", "data.batch_size=10", "model=resnet18")
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.glob("outputs/**/summary.json")
    assert json.loads(path.read_text())["epochs"] == 1


def test_batches_of_one_image_are_refused_where_batch_norms_are(command) -> None:
    outcome = command(*WORDS, "data.train_images=10", "data.batch_size=1", "model=resnet18")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert "Expected `data.batch_size` to give resnet18 two images or more" in outcome.err


def test_a_training_that_diverges_in_its_last_epoch_ends_with_one_line(command) -> None:
    outcome = command(*WORDS, "data.train_images=10", "optimizer=sgd", "optimizer.lr=1e30")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert "Expected the training to keep finite weights" in outcome.err


def test_precise_batch_norms_change_what_is_measured_and_not_the_training(
    command, tmp_path: Path
) -> None:
    words = (*WORDS, "data.train_images=60", "data.batch_size=10", "data.validation=0.2")
    words = (*words, "model=resnet18", "trainer.max_epochs=2", "optimizer.lr=0.01")
    states, seen = [], []
    for extra in ((), ("callback=precise_batch_norm", "callback.images=30")):
        outcome = command(*words, *extra, "output_root=" + str(tmp_path / f"with{len(extra)}"))
        assert outcome.code == 0, outcome.err
        (run,) = (path.parent for path in tmp_path.glob(f"with{len(extra)}/**/summary.json"))
        states.append(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
        history = pd.read_csv(run / "metrics.csv")
        assert history["train/loss"].notna().all()
        seen.append(history)
        told = json.loads((run / "summary.json").read_text())["train"]["in_evaluation"]
        assert 0 <= told["low"] <= told["accuracy"] <= told["high"] <= 1
        assert isinstance(told["lags"], bool)
    differing = {n for n, value in states[0].items() if not torch.equal(value, states[1][n])}
    parts = {name.rsplit(".", 1)[1] for name in differing}
    assert parts == {"running_mean", "running_var", "num_batches_tracked"}
    assert {int(v) for n, v in states[1].items() if n.endswith("tracked")} == {3}
    assert seen[0]["train/loss"].tolist() == seen[1]["train/loss"].tolist()
    assert (seen[0]["val/loss"] != seen[1]["val/loss"]).all()


def test_precise_batch_norms_of_no_image_are_refused(command) -> None:
    outcome = command(*WORDS, "callback=precise_batch_norm", "callback.images=1")
    assert outcome.code == 2
    assert "`callback.images`" in outcome.err
    assert "Traceback" not in outcome.err
