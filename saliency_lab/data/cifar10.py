"""CIFAR-10, downloaded or as class folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from saliency_lab.data.downloading import download_root, single_download
from saliency_lab.data.listing import existing_root, file_source
from saliency_lab.data.module import ImageData
from saliency_lab.data.source import Pixels, Source, Unreadable
from saliency_lab.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_WANTED = (
    "cifar-10-batches-py (the unpacked Python archive), or cifar10/train/<class>/* and "
    "cifar10/test/<class>/*"
)


@dataclass(kw_only=True, eq=False, repr=False)
class Cifar10(ImageData):
    """60,000 colour images of 32×32 in ten classes (Krizhevsky, 2009).

    `root` may be, or hold as `cifar10`, a folder with `train/<class>` and `test/<class>`; else
    torchvision's archive is taken from `root`, and downloaded into it where it is missing.
    """

    name: str = "cifar10"

    def download(self) -> None:
        place = self._place_of_files()
        if self._as_folders(place) or _complete(place):
            return
        from torchvision.datasets import CIFAR10

        with single_download(place, _WANTED):
            CIFAR10(str(place), train=True, download=True)

    def source(self, split: Literal["train", "test"]) -> Source:
        place = self._place_of_files()
        folder = self._as_folders(place)
        if folder is not None:
            folders = {name: folder / split / name for name in CLASSES}
            return file_source(folders, base=folder, size=_SIDE, resize="stretch")
        self.download()
        return _archive_source(place, split)

    def _place_of_files(self) -> Path:
        return download_root() if self.root is None else existing_root(self.root)

    @staticmethod
    def _as_folders(place: Path) -> Path | None:
        for folder in (place / "cifar10", place):
            if (folder / "train").is_dir() and (folder / "test").is_dir():
                return folder
        return None


def _complete(place: Path) -> bool:
    """Whether the archive's six files are there; their checksums are torchvision's to check."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]
    return all((place / "cifar-10-batches-py" / name).is_file() for name in names)


def _archive_source(place: Path, split: Literal["train", "test"]) -> Source:
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(str(place), train=split == "train")
    except RuntimeError as error:
        raise UserError(
            f"Expected `data.root` to hold a whole cifar-10-batches-py, but the files in {place} "
            "are missing or have other checksums; delete that folder to download it again."
        ) from error
    images = np.asarray(data.data, dtype=np.uint8).transpose(0, 3, 1, 2)

    def read(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        return np.ascontiguousarray(images[list(positions)]), {}

    return Source(
        class_names=CLASSES,
        ids=[f"{split}/{number}" for number in range(len(images))],
        labels=np.asarray(data.targets, dtype=np.int64),
        shape=(3, _SIDE, _SIDE),
        settings="cifar-10-batches-py",
        read=read,
        place=str(place),
    )
