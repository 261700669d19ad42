"""What a loader hands on: images with their labels, indices and stable ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from saliency_lab.data.cache import CachedImages
from saliency_lab.data.shortcuts import Cue
from saliency_lab.data.source import digest


class Batch(NamedTuple):
    """Samples of one split."""

    image: Tensor
    """(B, C, H, W): uint8 as it leaves the loader, float32 in [0, 1] on the device."""
    label: Tensor
    """int64 (B,)."""
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which no one needs here
    """int64 (B,), position in the split after class selection and limit."""
    ids: list[str]
    """Stable names of the samples, such as `test/cat/0001.jpg`."""


class Split(Dataset[Batch]):
    """A split as an index view on the cache: a batch is one gather from the mapped file.

    Args:
        images, rows: the cache, and this split's positions in it.
        labels, ids: of the samples.
        cue: planted into the images that carry it; None for none.
    """

    def __init__(
        self,
        images: CachedImages,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        ids: Sequence[str],
        cue: Cue | None = None,
    ) -> None:
        self.images = images
        self.rows = rows
        self.labels = labels
        self.ids = list(ids)
        self.cue = cue

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images at these positions, uint8 (n, C, H, W)."""
        index = np.asarray(indices, dtype=np.int64)
        found = self.clean_pixels(index)
        if self.cue is not None:
            ids = [self.ids[position] for position in index]
            carrying = np.flatnonzero(self.cue.carried(self.labels[index], ids))
            if len(carrying):
                found[carrying] = self.cue.planted(found[carrying], [ids[at] for at in carrying])
        return found

    def clean_pixels(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images at these positions without any planted cue, uint8 (n, C, H, W)."""
        return self.images.take(self.rows[np.asarray(indices, dtype=np.int64)])

    def content(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> str:
        """Hash over the pixels of the images at these positions, None for all, without any cue."""
        rows = self.rows if indices is None else self.rows[np.asarray(indices, dtype=np.int64)]
        return digest(f"{one:016x}" for one in self.images.digests(rows).tolist())

    def __getitem__(self, index: int) -> Batch:
        """One sample as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """All samples of a batch at once; the loader's fetcher looks for this name."""
        index = np.asarray(indices, dtype=np.int64)
        return Batch(
            image=torch.from_numpy(self.pixels(index)),
            label=torch.from_numpy(self.labels[index]),
            index=torch.from_numpy(index),
            ids=[self.ids[position] for position in index],
        )


def channels_last_pixels(image: Tensor) -> Tensor:
    """uint8 (B, C, H, W) as float32 in [0, 1], laid out as convolutions are trained.

    Channel by channel: for three channels that is ten times as fast as a conversion followed by
    another layout.
    """
    pixels = torch.empty(
        image.shape,
        dtype=torch.float32,
        device=image.device,
        memory_format=torch.channels_last,
    )
    for channel in range(image.shape[1]):
        pixels[:, channel] = image[:, channel]
    return pixels.div_(255)
