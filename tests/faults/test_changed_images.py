"""Images that change while an evaluation of them is unfinished."""

from __future__ import annotations

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


def test_blocks_of_other_images_are_done_again(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command
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
    (pets / "test" / "dog" / "1.png").rename(pets / "test" / "dog" / "9.png")
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    assert "the images have changed since this run began: redoing 1 block" in outcome.err
    (found,) = (tmp_path / "outputs").glob("evaluate/*/*/*/*/deletion.parquet")
    outcome = command(*words, "output_root=fresh")
    assert outcome.code == 0, outcome.err
    (fresh,) = (tmp_path / "fresh").glob("evaluate/*/*/*/*/deletion.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(found), pd.read_parquet(fresh))
    assert "test/dog/9.png" in set(pd.read_parquet(found)["sample_id"])
