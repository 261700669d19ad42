"""Tiny data sets in every real layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TreeMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def make_tree(tmp_path: Path) -> TreeMaker:
    """Writes PNG class folders: make_tree({"train/cat": 3, …}, size=(8, 8)) gives their root."""

    def make(counts: dict[str, int], *, size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
        root = tmp_path / "images"
        rng = np.random.default_rng(seed)
        for place, count in counts.items():
            folder = root / place
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        return root

    return make


@pytest.fixture
def real_data() -> Path:
    """The folder of the real images."""
    place = os.environ.get("SALIENCY_LAB_DATA")
    if not place:
        pytest.skip("SALIENCY_LAB_DATA does not name a folder with cifar10 and imagenette2")
    return Path(place)
