"""The embedded data set: shapes that the program draws, with exact masks of the evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from saliency_lab.data.drawing import CLASSES, DRAWING, SIDE, drawn
from saliency_lab.data.module import ImageData, SplitName
from saliency_lab.data.source import Pixels, Source, Unreadable


@dataclass(kw_only=True, eq=False, repr=False)
class Shapes(ImageData):
    """Outlines of ten shapes on textured backgrounds, 32×32, among clutter, partly hidden.

    `root` is not used: there are no files. The pictures depend on `images_seed`, not on the run's
    seed, so that runs with several seeds are about the same images.

    Args:
        train_images: number of training images.
        test_images: number of test images.
        images_seed: another one gives other pictures.
    """

    name: str = "shapes"
    train_images: Annotated[int, Gt(0)] = 8000
    test_images: Annotated[int, Gt(0)] = 1000
    images_seed: Annotated[int, Ge(0)] = 0

    def source(self, split: Literal["train", "test"]) -> Source:
        count = self.train_images if split == "train" else self.test_images
        labels = np.arange(count, dtype=np.int64) % len(CLASSES)

        def read(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
            return np.stack([self._drawn(split, position)[0] for position in positions]), {}

        return Source(
            class_names=CLASSES,
            ids=[f"shapes/{split}/{number}" for number in range(count)],
            labels=labels,
            shape=(3, SIDE, SIDE),
            settings=f"{DRAWING},{self.images_seed}",
            read=read,
            place="the program",
        )

    def has_masks(self, split: SplitName) -> bool:
        return True

    def masks(
        self, split: SplitName, indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.bool]:
        """Exact evidence at these positions of the split: bool (n, H, W), True where the shape's
        outline is seen."""
        ids = self.split(split).ids
        chosen = [ids[int(index)].split("/") for index in indices]
        masks = [self._drawn(part, int(number))[1] for _, part, number in chosen]
        return np.stack(masks) if masks else np.zeros((0, SIDE, SIDE), dtype=np.bool)

    def _drawn(self, split: str, number: int) -> tuple[Pixels, NDArray[np.bool]]:
        return drawn(number % len(CLASSES), (self.images_seed, split == "test", number))
