"""Objects pasted on scenes: the same images for two sets of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from saliency_lab.data.decoding import Resize
from saliency_lab.data.folder import Folder
from saliency_lab.data.module import ImageData, SplitName
from saliency_lab.data.shortcuts import Place, corner, drawn_number
from saliency_lab.data.source import Pixels, Source, Unreadable
from saliency_lab.errors import UserError

_PASTING = "pasted-1"
"""Changes when the pixels made from the same object and scene change."""


@dataclass(kw_only=True, eq=False, repr=False)
class Pasted(ImageData):
    """Images of one tree of class folders laid on those of another, after BAM (Yang and Kim 2019).

    Each class of objects meets each class of scenes equally often, and no object and no scene is
    used twice, so neither tells anything of the other: a network that is trained on one kind of
    label has nothing to learn from the rest of the image. The images are the same whichever kind
    is asked for. Training images are made of training images, test images of test images, where
    the folders are divided (see `Folder` for the layouts).

    Other than in BAM objects are whole rectangles, as they are in their files, without an outline.

    Images are numbered so that the first N are as balanced as N allows, and `limit` takes the
    first: a multiple of (classes of objects) × (classes of scenes) keeps them exactly balanced.
    Pairs and places depend on `pairs_seed` and on the images' own ids, not on the run's seed.
    Under `on_corrupt=skip` a pair with an unreadable image is left out.

    `root` holds the objects.

    Args:
        scenes: folder of the scenes.
        classes_are: which of the two the labels name.
        size: height and width of the images.
        object_size: height and width of the object in them.
        place: where the object lies; `random` draws a place for every image.
        resize: `stretch` ignores the aspect, `crop` takes the middle; of objects and scenes.
        pairs_seed: another one gives other pairs and places.

    Source: Yang and Kim, "Benchmarking attribution methods with relative feature importance", 2019.
    """

    name: str = "pasted"
    scenes: str | None = None
    classes_are: Literal["object", "scene"] = "object"
    size: Annotated[int, Gt(0)] = 64
    object_size: Annotated[int, Gt(0)] = 32
    place: Place = "random"
    resize: Resize = "stretch"
    pairs_seed: Annotated[int, Ge(0)] = 0

    def source(self, split: Literal["train", "test"]) -> Source:
        if self.object_size >= self.size:
            raise UserError(
                f"Expected `data.object_size` to be smaller than `data.size` ({self.size}), "
                f"but got {self.object_size}."
            )
        objects, scenes = self._objects(split), self._scenes(split)
        pairs = balanced_pairs(objects, scenes, self.pairs_seed)
        ids = [f"{objects.ids[first]}+{scenes.ids[second]}" for first, second in pairs]
        column, named = (0, objects) if self.classes_are == "object" else (1, scenes)

        def read(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
            chosen = pairs[list(positions)].reshape(-1, 2)
            small, without_object = objects.read(chosen[:, 0].tolist())
            pixels, without_scene = scenes.read(chosen[:, 1].tolist())
            unreadable: Unreadable = {}
            for slot, (position, pair) in enumerate(zip(positions, chosen.tolist(), strict=True)):
                rows, columns = self._rectangle(ids[position])
                pixels[slot, :, rows, columns] = small[slot]
                reason = without_object.get(pair[0]) or without_scene.get(pair[1])
                if reason is not None:
                    unreadable[position] = reason
            return pixels, unreadable

        return Source(
            class_names=named.class_names,
            ids=ids,
            labels=named.labels[pairs[:, column]],
            shape=scenes.shape,
            settings=f"{_PASTING},{self.object_size},{self.place},{self.pairs_seed},"
            f"{objects.settings},{scenes.settings}",
            read=read,
            place=f"{objects.place} on {scenes.place}",
            stamps=[f"{objects.stamps[first]}+{scenes.stamps[second]}" for first, second in pairs],
        )

    def has_masks(self, split: SplitName) -> bool:
        return True

    def masks(
        self, split: SplitName, indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.bool]:
        """What the labels name, at these positions of the split: bool (n, size, size).

        The object's rectangle, or where `classes_are=scene` the rest of the image.
        """
        ids = self.split(split).ids
        of_object = self.classes_are == "object"
        found = np.full((len(indices), self.size, self.size), not of_object)
        for slot, index in enumerate(indices):
            found[slot, *self._rectangle(ids[int(index)])] = of_object
        return found

    def _rectangle(self, sample: str) -> tuple[slice, slice]:
        free = self.size - self.object_size
        top, left = corner(self.place, (free, free), self.pairs_seed, sample)
        return slice(top, top + self.object_size), slice(left, left + self.object_size)

    def _limited(self, labels: NDArray[np.int64], limit: int, split: str) -> NDArray[np.int64]:
        return np.arange(min(limit, len(labels)), dtype=np.int64)

    def _objects(self, split: Literal["train", "test"]) -> Source:
        return self._folder(self.root, self.object_size).source(split)

    def _scenes(self, split: Literal["train", "test"]) -> Source:
        if self.scenes is None:
            raise UserError("Expected `data.scenes` to be a folder of class folders, but got none.")
        try:
            return self._folder(self.scenes, self.size).source(split)
        except UserError as error:
            raise UserError(str(error).replace("`data.root`", "`data.scenes`")) from error

    def _folder(self, root: str | None, size: int) -> Folder:
        return Folder(
            root=root,
            size=size,
            resize=self.resize,
            seed=self.pairs_seed,
            on_corrupt=self.on_corrupt,
        )


def balanced_pairs(objects: Source, scenes: Source, seed: int) -> NDArray[np.int64]:
    """Rows of an object and of a scene for each image, int64 (N, 2); no row is used twice.

    With K and L classes, any K·L images in a row that begin at a multiple of K·L hold each pair of
    classes once, and any K in a row that begin at a multiple of K each class of objects once. N is
    the largest multiple of K·L that the smallest classes allow. Within a class a hash of (seed, id)
    decides the order.

    Raises:
        UserError: a class has too few images to meet each class of the others once.
    """
    first, second = _shuffled_rows(objects, seed), _shuffled_rows(scenes, seed)
    for key, rows, others in (("root", first, second), ("scenes", second, first)):
        least = min(len(one) for one in rows)
        if least < len(others):
            raise UserError(
                f"Expected `data.{key}` to hold at least {len(others)} images of every class, one "
                f"for each class that it is paired with, but the smallest class has {least}."
            )
    across, down = len(first), len(second)
    rounds = min(min(map(len, first)) // down, min(map(len, second)) // across)
    pairs = np.empty((rounds * across * down, 2), dtype=np.int64)
    for number in range(len(pairs)):
        turn, of_object = number // (across * down), number % across
        of_scene = (of_object + number // across) % down
        pairs[number] = (
            first[of_object][turn * down + of_scene],
            second[of_scene][turn * across + of_object],
        )
    return pairs


def _shuffled_rows(source: Source, seed: int) -> list[NDArray[np.int64]]:
    """The rows of each class in an order that (seed, id) decides."""
    drawn = np.array([drawn_number(seed, "pair", sample) for sample in source.ids])
    return [
        rows[np.argsort(drawn[rows], kind="stable")]
        for rows in (np.flatnonzero(source.labels == k) for k in range(len(source.class_names)))
    ]
