"""Imagenette, downloaded or unpacked already."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from saliency_lab.data.decoding import Resize
from saliency_lab.data.downloading import download_root, single_download
from saliency_lab.data.listing import existing_root, file_source
from saliency_lab.data.module import ImageData
from saliency_lab.data.source import Source

CLASSES = {
    "tench": "n01440764",
    "English springer": "n02102040",
    "cassette player": "n02979186",
    "chain saw": "n03000684",
    "church": "n03028079",
    "French horn": "n03394916",
    "garbage truck": "n03417042",
    "gas pump": "n03425413",
    "golf ball": "n03445777",
    "parachute": "n03888257",
}
"""Readable names, in the order of their WordNet ids."""
_WANTED = "imagenette2/train/<wnid>/* and imagenette2/val/<wnid>/* (the unpacked archive)"


@dataclass(kw_only=True, eq=False, repr=False)
class Imagenette(ImageData):
    """13,394 photographs in ten classes of ImageNet (Howard, 2019); `val` is the test split.

    `root` may be, or hold, an unpacked `imagenette2*` folder; else torchvision's full-size archive
    is downloaded into it. Images that have the size already are used as they are.

    Args:
        size: height and width of the images.
        resize: `stretch` ignores the aspect (the paper's way), `crop` takes the middle.
    """

    name: str = "imagenette"
    size: Annotated[int, Gt(0)] = 224
    resize: Resize = "stretch"

    def download(self) -> None:
        place = self._place_of_files()
        if _unpacked(place) is None:
            _download(place)

    def source(self, split: Literal["train", "test"]) -> Source:
        place = self._place_of_files()
        folder = _unpacked(place)
        if folder is None:
            self.download()
            folder = _unpacked(place) or place / "imagenette2"
        inside = folder / ("train" if split == "train" else "val")
        folders = {name: inside / wnid for name, wnid in CLASSES.items()}
        return file_source(folders, base=folder, size=self.size, resize=self.resize)

    def _place_of_files(self) -> Path:
        return download_root() if self.root is None else existing_root(self.root)


def _unpacked(place: Path) -> Path | None:
    for folder in (place, place / "imagenette2", *sorted(place.glob("imagenette2*"))):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return folder
    return None


def _download(place: Path) -> None:
    """Unpacked aside and renamed: an interrupted download is never taken for a whole one."""
    from torchvision import datasets

    with single_download(place, _WANTED):
        if _unpacked(place) is not None:
            return
        aside = place / ".imagenette-download"
        shutil.rmtree(aside / "imagenette2", ignore_errors=True)
        datasets.Imagenette(str(aside), split="train", size="full", download=True)
        (aside / "imagenette2").rename(place / "imagenette2")
        shutil.rmtree(aside)
