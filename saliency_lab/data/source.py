"""What a split consists of before anything is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Unreadable = dict[int, str]
"""Position in the source to the path and the reason."""
Reader = Callable[[Sequence[int]], tuple[Pixels, Unreadable]]


@dataclass(frozen=True)
class Source:
    """Samples that can be decoded, all of one shape.

    Attributes:
        class_names: names in label order.
        ids: one stable id per sample.
        labels: int64 (N,), index into `class_names`.
        shape: (C, H, W) of every decoded image.
        settings: what decides the pixels of a given file (size, resize mode, seed, …).
        stamps: one string per sample that changes when its file does; empty if there is no file.
        read: positions to uint8 (n, C, H, W) and those that could not be read (left black).
        place: where the samples come from, for messages.
    """

    class_names: tuple[str, ...]
    ids: Sequence[str]
    labels: NDArray[np.int64]
    shape: tuple[int, int, int]
    settings: str
    read: Reader
    place: str
    stamps: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: NDArray[np.int64]) -> Source:
        """The same source with these samples only."""
        kept = [int(row) for row in rows]

        def read(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
            pixels, unreadable = self.read([kept[position] for position in positions])
            back = {kept[position]: position for position in positions}
            return pixels, {back[row]: reason for row, reason in unreadable.items()}

        return Source(
            class_names=self.class_names,
            ids=[self.ids[row] for row in kept],
            labels=self.labels[rows],
            shape=self.shape,
            settings=self.settings,
            read=read,
            place=self.place,
            stamps=[self.stamps[row] for row in kept] if self.stamps else (),
        )

    def key(self) -> str:
        """Hash over everything that decides the decoded array, the state of the files included."""
        return digest([self.settings, repr(self.shape), self.place, *self.ids, *self.stamps])


def digest(parts: Iterable[str]) -> str:
    """A short stable hash of a sequence of strings."""
    state = hashlib.blake2b(digest_size=10)
    for part in parts:
        state.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return state.hexdigest()
