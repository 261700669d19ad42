"""An evaluation's accuracy is the classifier's own, whatever is measured beside."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from saliency_lab.data.shapes import Shapes
from saliency_lab.models.checkpoint import load_classifier

IMAGES = 40
WORDS = (
    "evaluate", "method=active", "ckpt=untrained.ckpt", f"data.test_images={IMAGES}",
    "data.train_images=20", "resamples=20", "trainer=cpu", "trainer.threads=1", "logger=none",
)  # fmt: skip


@pytest.fixture
def own_accuracy(tmp_path: Path, cache_dir: Path, classifier_file: Path) -> float:
    """The share of right answers of the checkpoint, found without the evaluation."""
    (tmp_path / "untrained.ckpt").hardlink_to(classifier_file)
    data = Shapes(train_images=20, test_images=IMAGES, cache_dir=str(cache_dir))
    images = torch.from_numpy(data.images("test", range(IMAGES))).float().div(255)
    with torch.no_grad():
        right = load_classifier(classifier_file)(images).argmax(1) == torch.from_numpy(
            data.labels("test")
        )
    return float(right.float().mean())


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("evaluator.deletion.modes=[insertion]",),
        ("evaluator.deletion.modes=[insertion,deletion]",),
        ("evaluator.deletion.fractions=[0.3,0.9]",),
    ],
)
def test_accuracy_is_that_of_the_intact_images(
    words: tuple[str, ...], tmp_path: Path, own_accuracy: float, command
) -> None:
    outcome = command(*WORDS, *words)
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.glob("outputs/**/summary.json")
    summary = json.loads(path.read_text())
    assert summary["accuracy"]["value"] == pytest.approx(own_accuracy)
    assert summary["accuracy"]["low"] <= own_accuracy <= summary["accuracy"]["high"]
    assert 0 < own_accuracy < 1
    # On the masked images it is another, so that this test can tell.
    rows = pd.read_parquet(path.with_name("deletion.parquet") if (
        path.with_name("deletion.parquet").is_file()
    ) else next(path.parent.glob("deletion*.parquet")))  # fmt: skip
    by_fraction = (rows["prediction"] == rows["label"]).groupby(rows["fraction"]).mean()
    assert (by_fraction - own_accuracy).abs().max() > 0.02
    # Rows and data agree about the labels.
    data = Shapes(train_images=20, test_images=IMAGES)
    truth = dict(zip(data.source("test").ids, data.source("test").labels.tolist(), strict=True))
    assert rows["label"].tolist() == [truth[name] for name in rows["sample_id"]]


def test_two_precisions_are_two_runs(tmp_path: Path, own_accuracy: float, command) -> None:
    for words in ((), ("engine.precision=bf16",), ("engine.scores_batch=7",)):
        outcome = command(*WORDS, *words)
        assert outcome.code == 0, outcome.err
    found = sorted(path.parent.name for path in tmp_path.glob("outputs/**/summary.json"))
    # How many images go at once decides no number; in which precision they go does.
    assert len(found) == 2
    assert sum("engine.precision-bf16" in name for name in found) == 1


def test_an_interrupted_training_is_not_evaluated(tmp_path: Path, command, monkeypatch) -> None:
    train = (
        "train", "data.train_images=20", f"data.test_images={IMAGES}", "data.batch_size=20",
        "trainer.max_epochs=2", "trainer=cpu", "logger=none",
    )  # fmt: skip
    assert command(*train).code == 0
    (summary,) = tmp_path.glob("outputs/train/**/summary.json")
    content = json.loads(summary.read_text())
    words = ("evaluate", *(w for w in train[1:]), "method=active", "resamples=20")
    summary.write_text(json.dumps({**content, "status": "running"}))
    outcome = command(*words)
    assert outcome.code == 2
    *_, line = outcome.err.splitlines()
    assert line.startswith("error: Expected a finished training")
    assert str(summary.parent) in line
    assert not list(tmp_path.glob("outputs/evaluate/**/*.parquet"))
    summary.write_text(json.dumps(content))
    assert command(*words).code == 0
