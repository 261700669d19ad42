"""CUB-200-2011 with species joined into groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from saliency_lab.data.decoding import Resize
from saliency_lab.data.listing import existing_root, listed_source
from saliency_lab.data.module import ImageData
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError

FOLDER = "CUB_200_2011"


@dataclass(kw_only=True, eq=False, repr=False)
class Birds(ImageData):
    """Photographs of birds (Wah et al. 2011), the species of a group as one class.

    `root` is, or holds, the unpacked `CUB_200_2011` with images.txt, image_class_labels.txt,
    classes.txt, train_test_split.txt and images/. A species such as `113.Baird_Sparrow` belongs to
    the group that its name ends in; all others are left out. The splits are the data set's own.

    Args:
        groups: the classes; null for each of the 200 species by itself.
        size: height and width of the images.
        resize: `stretch` ignores the aspect, `crop` takes the middle.
    """

    name: str = "birds"
    groups: Sequence[str] | None = ("warbler", "sparrow")
    size: Annotated[int, Gt(0)] = 224
    resize: Resize = "stretch"

    def source(self, split: Literal["train", "test"]) -> Source:
        if self.root is None:
            raise UserError(f"Expected `data.root` to be a folder with {FOLDER}, but got none.")
        root = existing_root(self.root)
        root = root / FOLDER if (root / FOLDER).is_dir() else root
        species = _table(root, "classes.txt")
        of_image = _table(root, "image_class_labels.txt")
        training = _table(root, "train_test_split.txt")
        files: dict[str, list[tuple[str, str]]] = {
            name: [] for name in (self.groups or species.values())
        }
        for image, path in _table(root, "images.txt").items():
            group = self._group(species[of_image[image]])
            if group in files and (training[image] == "1") == (split == "train"):
                files[group].append(_stamped(root / "images" / path))
        for name, found in files.items():
            if not found:
                raise UserError(
                    f"Expected `data.groups` to name groups of species with {split} images in "
                    f"{root}, but got '{name}'."
                )
        return listed_source(files, base=root, size=self.size, resize=self.resize)

    def _group(self, species: str) -> str:
        if self.groups is None:
            return species
        return species.rpartition("_")[2].lower()


def _table(root: Path, name: str) -> dict[str, str]:
    """A file of two columns: number to what it stands for, in the file's order."""
    try:
        lines = (root / name).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"Expected `data.root` to be an unpacked {FOLDER}, but {root / name} cannot be read: "
            f"{error.strerror}."
        ) from error
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    damaged = [line for line in pairs if len(line) != 2]
    if damaged:
        raise UserError(
            f"Expected {root / name} to hold two columns, but got the line {damaged[0]}."
        )
    return {number: value.strip() for number, value in pairs}


def _stamped(path: Path) -> tuple[str, str]:
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(
            f"Expected `data.root` to hold every image of images.txt, but {path} cannot be read: "
            f"{error.strerror}."
        ) from error
    return str(path), f"{state.st_size}:{state.st_mtime_ns}"
