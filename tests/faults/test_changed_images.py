"""Images that change while an evaluation of them is unfinished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saliency_lab.evaluation.rows.shards import Shards

FOLDER = ("data=folder", "data.size=32", "trainer=cpu", "logger=none")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of noise, eight training and six test images each."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 6)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pets"


def replace(path: Path) -> None:
    """Another picture under the same name."""
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("renamed", [True, False])
def test_blocks_of_other_images_are_done_again(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command, renamed: bool
) -> None:
    given = (*FOLDER, f"data.root={pets}")
    outcome = command("train", *given, "data.batch_size=8", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    words = ("evaluate", *given, f"ckpt={checkpoint}", "block_size=4")
    write = Shards.write

    def killed(self: Shards, number: int, *rest: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, *rest)

    monkeypatch.setattr(Shards, "write", killed)
    assert command(*words).code == 130
    monkeypatch.setattr(Shards, "write", write)
    # The second block is of cat/4, cat/5, dog/0 and dog/1; the first one stays as it is.
    if renamed:
        (pets / "test" / "dog" / "1.png").rename(pets / "test" / "dog" / "9.png")
    else:
        replace(pets / "test" / "dog" / "1.png")
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    assert "the images have changed since this run began: redoing 1 block" in outcome.err
    (found,) = (tmp_path / "outputs").glob("evaluate/*/*/*/*/deletion.parquet")
    outcome = command(*words, "output_root=fresh")
    assert outcome.code == 0, outcome.err
    (fresh,) = (tmp_path / "fresh").glob("evaluate/*/*/*/*/deletion.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(found), pd.read_parquet(fresh))
    assert renamed == ("test/dog/9.png" in set(pd.read_parquet(found)["sample_id"]))


def test_a_file_that_was_replaced_is_told_of_and_not_measured_beside_the_others(
    pets: Path, tmp_path: Path, command
) -> None:
    given = (*FOLDER, f"data.root={pets}", "data.batch_size=8", "trainer.max_epochs=1")
    training = ("train", *given)
    words = ("evaluate", *given, "evaluator=deletion", "maps=keep", "block_size=4")
    for one in (training, words):
        outcome = command(*one)
        assert outcome.code == 0, outcome.err
        again = command(*one)
        assert "already finished" in again.out
        assert "have changed" not in again.err
    replace(pets / "test" / "dog" / "1.png")
    for one in (training, words):
        outcome = command(*one)
        assert outcome.code == 0, outcome.err
        assert "the test images have changed since this run" in outcome.err
    (directory,) = (tmp_path / "outputs").glob("evaluate/*/*/*/*")
    kept = ("deletion.parquet", "deletion-curves.csv", "config.yaml")
    before = [(directory / name).read_bytes() for name in kept]
    summary = json.loads((directory / "summary.json").read_text())
    refused = command(*words, "evaluator=complexity")
    assert refused.code == 2
    assert "Expected the test images that deletion of this run measured" in refused.err
    after = [(directory / name).read_bytes() for name in kept]
    assert after == before
    now = json.loads((directory / "summary.json").read_text())
    assert {**now, "running": []} == {**summary, "running": []}
    outcome = command(*words, "overwrite=true")
    assert outcome.code == 0, outcome.err
    checkpoint = next(tmp_path.rglob("last.ckpt"))
    fresh = command(*words, "output_root=fresh", f"ckpt={checkpoint}")
    assert fresh.code == 0, fresh.err
    (new,) = (tmp_path / "fresh").glob("evaluate/*/*/*/*/deletion.parquet")
    found = pd.read_parquet(directory / "deletion.parquet")
    pd.testing.assert_frame_equal(found, pd.read_parquet(new))
