"""Small trainings, every number of every epoch: a training of today is the training of yesterday.

Initial weights, order of images, augmentation, dropout, optimizer and schedule all move them. Where
they are meant to move, `python -m tests.training.test_golden` writes them anew, and the difference
is part of the change that is looked at.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

GOLDEN = Path(__file__).resolve().parent / "golden.csv"
WORDS = (
    "train", "data.train_images=90", "data.test_images=20", "data.batch_size=24",
    "trainer.max_epochs=2", "trainer=cpu", "trainer.threads=1", "logger=none",
)  # fmt: skip
PAPERS_RESNET = ("model=resnet18", "model.head=on_logits", "model.zero_init_last=false")
SETTINGS = {
    "cnn": ("optimizer.lr=0.01", "data.batch_size=8"),
    "augmented": (
        *PAPERS_RESNET, "data.augment=basic", "data.validation=0.2", "optimizer.lr=0.0001",
    ),
    "resnet": (*PAPERS_RESNET, "optimizer=sgd", "optimizer.lr=0.0001", "scheduler=cosine"),
    "dropout": (
        *PAPERS_RESNET, "model.arguments={drop_rate: 0.5}", "optimizer.lr=0.0001", "seed=1",
    ),
}  # fmt: skip
# Machines add in different orders; batch norms over few images make most of it. With the widest
# of oneDNN's and PyTorch's vector instructions switched off they differ by at most a third of this.
TOLERANCE = {"cnn": 1e-4, "augmented": 2e-3, "resnet": 2e-3, "dropout": 2e-3}
MEASURED = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr")


def history(train: Callable[..., Any], folder: Path, name: str) -> pd.DataFrame:
    """A row for each epoch of the training with these settings, run below the folder."""
    place = folder / name
    train(*WORDS, *SETTINGS[name], f"output_root={place}")
    (path,) = place.glob("**/metrics.csv")
    found = pd.read_csv(path).reindex(columns=["epoch", *MEASURED])
    found.insert(0, "settings", name)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_every_epoch_is_what_it_was(name: str, command, tmp_path: Path) -> None:
    golden = pd.read_csv(GOLDEN)
    expected = golden[golden["settings"] == name].reset_index(drop=True)
    found = history(command, tmp_path, name)
    assert len(found) == len(expected) == 2
    for column in MEASURED:
        # A share may differ by one image that two classes are equally good for.
        share = 0.06 if column == "val/accuracy" else 0.012 if "accuracy" in column else 0
        np.testing.assert_allclose(
            found[column], expected[column], rtol=TOLERANCE[name], atol=share, err_msg=column
        )


def test_the_golden_trainings_differ() -> None:
    golden = pd.read_csv(GOLDEN)
    assert golden["train/loss"].nunique() == len(golden) == 2 * len(SETTINGS)
    # The first epoch's losses are further apart than the tolerance.
    losses = np.sort(golden[golden["epoch"] == 1]["train/loss"])
    assert (np.diff(losses) / losses[1:] > 4 * max(TOLERANCE.values())).all()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        tables = [
            history(
                lambda *words: subprocess.run(
                    [sys.executable, "-m", "saliency_lab", *words], check=True
                ),
                Path(temporary),
                name,
            )
            for name in SETTINGS
        ]
    pd.concat(tables).to_csv(GOLDEN, index=False, float_format="%.6g")
