"""Oxford-IIIT Pet: cats and dogs that are downloaded without an account."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from saliency_lab.data.decoding import Resize
from saliency_lab.data.downloading import download_root, single_download
from saliency_lab.data.listing import existing_root, listed_source
from saliency_lab.data.module import ImageData
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError

FOLDER = "oxford-iiit-pet"
SPECIES = {"1": "cat", "2": "dog"}
_LISTS = {"train": "trainval.txt", "test": "test.txt"}
_WANTED = f"{FOLDER}/images/*.jpg and {FOLDER}/annotations/*.txt (both archives unpacked)"


@dataclass(kw_only=True, eq=False, repr=False)
class OxfordPet(ImageData):
    """7,349 photographs of 12 breeds of cats and 25 of dogs (Parkhi et al. 2012).

    `root` is, or holds, the unpacked `oxford-iiit-pet`; else torchvision downloads it into `root`.
    `trainval` is the training split.

    Args:
        classes_are: `species` has two classes, `breed` 37.
        size: height and width of the images.
        resize: `stretch` ignores the aspect, `crop` takes the middle.
    """

    name: str = "oxford_pet"
    classes_are: Literal["species", "breed"] = "species"
    size: Annotated[int, Gt(0)] = 224
    resize: Resize = "stretch"

    def download(self) -> None:
        place = self._place_of_files()
        if _unpacked(place) is None:
            from torchvision.datasets import OxfordIIITPet

            with single_download(place, _WANTED):
                OxfordIIITPet(str(place), download=True)

    def source(self, split: Literal["train", "test"]) -> Source:
        place = self._place_of_files()
        if _unpacked(place) is None:
            self.download()
        root = _unpacked(place) or place / FOLDER
        named = [*_listed(root, "train"), *_listed(root, "test")]
        files: dict[str, list[tuple[str, str]]] = {
            name: [] for name in sorted({self._class(words) for words in named})
        }
        for words in _listed(root, split):
            path = root / "images" / f"{words[0]}.jpg"
            files[self._class(words)].append((str(path), _stamp(path)))
        return listed_source(files, base=root, size=self.size, resize=self.resize)

    def _class(self, words: list[str]) -> str:
        if self.classes_are == "species":
            return SPECIES[words[2]]
        return words[0].rpartition("_")[0]

    def _place_of_files(self) -> Path:
        return download_root() if self.root is None else existing_root(self.root)


def _unpacked(place: Path) -> Path | None:
    for root in (place / FOLDER, place):
        lists = [root / "annotations" / name for name in _LISTS.values()]
        if (root / "images").is_dir() and all(file.is_file() for file in lists):
            return root
    return None


def _listed(root: Path, split: str) -> list[list[str]]:
    """Name, number of the breed, species and number within it, of each image of a split."""
    path = root / "annotations" / _LISTS[split]
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    damaged = [words for words in found if len(words) != 4 or words[2] not in SPECIES]
    if damaged or not found:
        raise UserError(
            f"Expected {path} to hold name, class, species and breed, but got "
            f"{damaged[0] if damaged else 'no line'}."
        )
    return found


def _stamp(path: Path) -> str:
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(
            f"Expected `data.root` to hold every listed image, but {path} cannot be read: "
            f"{error.strerror}."
        ) from error
    return f"{state.st_size}:{state.st_mtime_ns}"
