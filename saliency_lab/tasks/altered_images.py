"""Altered images of both splits as arrays, for the trainings of `evaluator=retraining`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.data.module import ImageData
from saliency_lab.evaluation.retraining.alteration import altered
from saliency_lab.evaluation.retraining.conditions import Condition
from saliency_lab.evaluation.retraining.evaluator import NOISE
from saliency_lab.evaluation.retraining.ranks import KeptRanks
from saliency_lab.runs.files import atomic_path, write_json

_CHUNK = 1000


def channel_means(data: ImageData) -> list[int]:
    """The mean of the training images per channel, rounded to a pixel's values."""
    count = len(data.ids("train"))
    total = np.zeros(data.input_shape[0], dtype=np.float64)
    for start in range(0, count, _CHUNK):
        pixels = data.images("train", range(start, min(start + _CHUNK, count)))
        total += pixels.mean((2, 3), dtype=np.float64).sum(0)
    return [round(value) for value in (total / count).tolist()]


@dataclass(frozen=True)
class AlteredImages:
    """Writes the images of a view and condition as `data=arrays` reads them.

    Attributes:
        data, ranks: of both splits.
        mean: what the fill `mean` writes, per channel.
        seed: the run's.
    """

    data: Mapping[Literal["train", "test"], ImageData]
    ranks: Mapping[Literal["train", "test"], KeptRanks]
    mean: Sequence[int]
    seed: int

    def write(self, folder: Path, view: str, condition: Condition) -> None:
        """Write both splits into `folder`, unless they lie there whole."""
        whole = folder / "classes.json"  # the last one that is written
        if whole.is_file():
            return
        for split in self.data:
            self._write_split(folder, split, view, condition)
        write_json(whole, list(self.data["test"].class_names))

    def _write_split(
        self, folder: Path, split: Literal["train", "test"], view: str, condition: Condition
    ) -> None:
        data = self.data[split]
        ids = data.ids(split)
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(ids), *data.input_shape)}
        with atomic_path(folder / f"{split}-images.npy") as path, path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for positions, ranks in self.ranks[split].of(view):
                named = [f"{NOISE}/{ids[position]}" for position in positions]
                shown = altered(
                    torch.from_numpy(data.images(split, positions)),
                    torch.from_numpy(ranks),
                    condition,
                    self.mean,
                    SampleGenerator(self.seed, named),
                )
                file.write(shown.numpy().data)
        with atomic_path(folder / f"{split}-labels.npy") as path:
            np.save(path, data.labels(split), allow_pickle=False)
        write_json(folder / f"{split}-ids.json", ids)
