"""A training that goes on from a shorter one is the longer training."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from .test_resume import own_model, same_run  # noqa: F401  a fixture

WORDS = (
    "train", "--config-dir", "my_conf", "model=tiny", "model.dropout=0.4", "data.augment=basic",
    "data.train_images=96", "data.test_images=40", "data.batch_size=20", "data.validation=0.2",
    "trainer=cpu", "logger=none",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("own_model")


def trained(command, epochs: int, *words: str) -> Path:
    outcome = command(*WORDS, f"trainer.max_epochs={epochs}", *words)
    assert outcome.code == 0, outcome.err
    return Path(outcome.out.split("wrote ")[-1].strip())


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_it_ends_as_the_longer_training_does(command, schedule):
    words = (f"scheduler={schedule}", *(["scheduler.every=2"] if schedule == "step" else []))
    whole = trained(command, 5, *words, "output_root=whole")
    short = trained(command, 3, *words)
    long = trained(command, 5, *words, f"continues={short}")
    same_run(whole, long)
    summary = json.loads((long / "summary.json").read_text())
    assert (summary["epochs"], summary["continues"]) == (5, str(short))
    assert long.name == whole.name  # evaluations find it by the same name
    assert torch.load(short / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


def test_the_best_epoch_may_be_the_last_of_the_shorter_training(command):
    short = trained(command, 1)  # its only epoch is its best
    long = trained(command, 2, f"continues={short}")
    assert pd.read_csv(long / "metrics.csv")["epoch"].tolist() == [1, 2]


def test_the_best_epoch_may_be_an_earlier_one(command):
    short = trained(command, 3)
    last = torch.load(short / "checkpoints/last.ckpt", weights_only=True)
    states = next(state for state in last["callbacks"].values() if "best" in state)
    states["best"] = {"epoch": 2, "monitor": "val/accuracy", "value": 2.0}
    torch.save(last, short / "checkpoints/last.ckpt")
    long = trained(command, 4, f"continues={short}")
    best = [run / "checkpoints/best.ckpt" for run in (short, long)]
    assert best[0].read_bytes() == best[1].read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["continues=nowhere"], "Expected `continues` to be the directory of a training"),
        (["continues=my_conf"], "Expected `continues` to be the directory of a training"),
        (["optimizer.lr=0.01"], "`optimizer.lr` is 0.001 there and 0.01 here"),
        (["model.width=4", "seed=1"], "`model.width` is 8 there and 4 here, `seed` is"),
        (["trainer.max_epochs=2", "output_root=x"], "to be more than the 2 of the run"),
        (["trainer.max_epochs=1"], "to be more than the 2 of the run"),
    ],
)
def test_what_is_no_shorter_training_is_refused(command, tmp_path, words, said):
    short = trained(command, 2)
    outcome = command(*WORDS, "trainer.max_epochs=3", f"continues={short}", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("outputs/train/shapes/tiny/*max_epochs-3*/config.yaml"))


def test_a_schedule_that_depends_on_the_length_is_refused(command):
    short = trained(command, 2, "scheduler=cosine")
    words = ("scheduler=cosine", "trainer.max_epochs=3", f"continues={short}")
    outcome = command(*WORDS, *words)
    assert outcome.code == 2
    assert "the same rates however long" in outcome.err


def test_a_run_without_a_checkpoint_is_refused(command):
    short = trained(command, 2)
    for path in (short / "checkpoints").iterdir():
        path.unlink()
    outcome = command(*WORDS, "trainer.max_epochs=3", f"continues={short}")
    assert outcome.code == 2
    assert "to have a checkpoint" in outcome.err
