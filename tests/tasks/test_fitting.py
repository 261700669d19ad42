"""Trainings that cannot go on end with one line."""

from __future__ import annotations

import json
from pathlib import Path

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
