"""The ranks of every pixel of a split's images, chunk by chunk on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_lab.runs.files import atomic_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptRanks:
    """Ranks of all views of a split, in chunks that a killed run need not make again.

    Attributes:
        folder: of these images, this classifier and this method alone.
        views: those that are wanted; others may lie beside them.
        images: how many there are.
        size: (H, W).
        chunk: images in one file.
    """

    folder: Path
    views: Sequence[str]
    images: int
    size: tuple[int, int]
    chunk: int = 1000

    def missing(self) -> list[int]:
        """Numbers of the chunks of which a view is not there or cannot be read."""
        return [
            number
            for number in range(-(-self.images // self.chunk))
            if not all(self._has(view, number) for view in self.views)
        ]

    def positions(self, number: int) -> range:
        """Which images of the split a chunk is about."""
        return range(number * self.chunk, min((number + 1) * self.chunk, self.images))

    def write(self, view: str, number: int, ranks: NDArray[Any]) -> None:
        """Keep a chunk's ranks of a view, whole numbers (n, H, W)."""
        height, width = self.size
        smallest = np.uint16 if height * width <= 2**16 else np.uint32
        with atomic_path(self._path(view, number)) as path:
            np.save(path, ranks.astype(smallest), allow_pickle=False)

    def of(self, view: str) -> Iterator[tuple[range, NDArray[np.int64]]]:
        """Chunk by chunk: the images' positions and the ranks of one view, int64 (n, H, W)."""
        for number in range(-(-self.images // self.chunk)):
            stored = np.load(self._path(view, number), allow_pickle=False)
            yield self.positions(number), stored.astype(np.int64)

    def _has(self, view: str, number: int) -> bool:
        path = self._path(view, number)
        if not path.is_file():
            return False
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s is corrupt, rebuilding it: %s", path, error)
            return False
        return bool(stored.shape == (len(self.positions(number)), *self.size))

    def _path(self, view: str, number: int) -> Path:
        return self.folder / view / f"{number:06d}.npy"
