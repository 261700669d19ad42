"""Your own images as NumPy arrays."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saliency_lab.data.cache import CachedImages
from saliency_lab.data.listing import existing_root
from saliency_lab.data.module import ImageData
from saliency_lab.data.source import Pixels, Source, Unreadable
from saliency_lab.errors import UserError

_MOST_CLASSES = 1_000_000


@dataclass(kw_only=True, eq=False, repr=False)
class Arrays(ImageData):
    """Images and labels in `.npy` files below `root`, read where they lie, without a copy.

    ==========================  ===========================================================
    train-images.npy            uint8 (N, C, H, W)
    train-labels.npy            whole numbers from 0 on, (N,)
    train-ids.json              N stable names; without it they are train/0, train/1, …
    classes.json                the names in label order; without it they are 0, 1, …
    ==========================  ===========================================================

    The same three for `test`. Images of both splits have one shape.

    Raises:
        UserError: a file is missing or cannot be read, or the files do not fit each other.
    """

    name: str = "arrays"

    def source(self, split: Literal["train", "test"]) -> Source:
        images, labels = self._images(split), self._labels(split)
        shape = self._images("train").shape[1:]
        if images.shape[1:] != shape:
            raise UserError(
                f"Expected `data.root` to hold test images of the training images' shape {shape}, "
                f"but got {images.shape[1:]}."
            )
        if len(labels) != len(images):
            raise UserError(
                f"Expected `data.root` to hold a label for each of the {len(images)} {split} "
                f"images, but got {len(labels)}."
            )

        def read(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
            return np.asarray(images[list(positions)]), {}

        return Source(
            class_names=self._class_names(),
            ids=self._ids(split, len(images)),
            labels=labels,
            shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            settings=_content_digest(self._path(split, "images.npy")),
            read=read,
            place=str(self._folder()),
        )

    def stored(self, split: Literal["train", "test"]) -> CachedImages:
        return CachedImages(self._path(split, "images.npy"), {})

    def _folder(self) -> Path:
        if self.root is None:
            raise UserError(
                "Expected `data.root` to be a folder with train-images.npy, train-labels.npy and "
                "the same for test, but got none."
            )
        return existing_root(self.root)

    def _path(self, split: str, name: str) -> Path:
        return self._folder() / f"{split}-{name}"

    def _images(self, split: str) -> NDArray[Any]:
        path = self._path(split, "images.npy")
        images = _loaded(path)
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise UserError(
                f"Expected {path} to hold uint8 images (N, C, H, W), but got {images.shape} of "
                f"{images.dtype}."
            )
        if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
            raise UserError(
                f"Expected {path} to hold images (N, C, H, W), but {images.shape} looks like "
                "(N, H, W, C); images.transpose(0, 3, 1, 2) puts the channels first."
            )
        return images

    def _labels(self, split: str) -> NDArray[np.int64]:
        path = self._path(split, "labels.npy")
        labels = _loaded(path)
        whole = np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1
        if not whole or labels.min(initial=0) < 0:
            raise UserError(
                f"Expected {path} to hold labels from 0 on, (N,), but got {labels.shape} of "
                f"{labels.dtype}."
            )
        if (largest := int(labels.max(initial=0))) >= _MOST_CLASSES:
            raise UserError(
                f"Expected {path} to hold labels from 0 on, a class each, but got {largest:,}."
            )
        return np.asarray(labels, dtype=np.int64)

    def _class_names(self) -> tuple[str, ...]:
        needed = 1 + max(int(self._labels(split).max(initial=0)) for split in ("train", "test"))
        path = self._folder() / "classes.json"
        if not path.is_file():
            return tuple(str(label) for label in range(needed))
        names = _names(path)
        if len(names) < needed:
            raise UserError(
                f"Expected {path} to name the {needed} classes of the labels, but it names "
                f"{len(names)}."
            )
        return tuple(names)

    def _ids(self, split: str, count: int) -> list[str]:
        path = self._path(split, "ids.json")
        if not path.is_file():
            return [f"{split}/{number}" for number in range(count)]
        ids = _names(path)
        if len(ids) != count:
            raise UserError(
                f"Expected {path} to name the {count} {split} images, but it names {len(ids)}."
            )
        return ids


def _loaded(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"Expected `data.root` to hold a readable {path.name}, but got: {error}."
        ) from error


def _names(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Expected {path} to hold a list of names, but got: {error}.") from error
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or len(set(names)) != len(names):
        raise UserError(f"Expected {path} to hold a list of different names, but it does not.")
    return list(names)


def _content_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:20]
