"""Photographs of cats and dogs, as Kaggle hands them out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from saliency_lab.data.decoding import Resize
from saliency_lab.data.listing import (
    divided,
    existing_root,
    file_source,
    image_files,
    listed_source,
)
from saliency_lab.data.module import ImageData
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError

CLASSES = ("cat", "dog")


@dataclass(kw_only=True, eq=False, repr=False)
class CatsDogs(ImageData):
    """Cats and dogs from any of three layouts of Kaggle's downloads, which need an account.

    - `training_set/cats`, `training_set/dogs`, `test_set/cats`, `test_set/dogs`, each set perhaps
      inside a folder of its own name ("Cat and Dog"): two splits;
    - `PetImages/Cat`, `PetImages/Dog` ("Microsoft Cats vs Dogs"): one split;
    - `train/cat.0.jpg`, `train/dog.0.jpg`, … ("Dogs vs. Cats"): one split with labels; the test
      images of this competition have none and are not used.

    A single split is divided: a seeded share of every class is tested on.

    Args:
        size: height and width of the images.
        resize: `stretch` ignores the aspect, `crop` takes the middle.
        test_share: share of every class that is tested on, where there is one split.
    """

    name: str = "cats_dogs"
    size: Annotated[int, Gt(0)] = 224
    resize: Resize = "stretch"
    test_share: Annotated[float, Gt(0), Lt(1)] = 0.2

    def source(self, split: Literal["train", "test"]) -> Source:
        if self.root is None:
            raise UserError(
                "Expected `data.root` to be a folder with Kaggle's cats and dogs, but got none."
            )
        for root in _roots(existing_root(self.root)):
            if (root / "training_set").is_dir():
                folder = root / ("training_set" if split == "train" else "test_set")
                inner = folder / folder.name
                return self._of_folders(inner if inner.is_dir() else folder, root, "cats", "dogs")
            if (root / "PetImages").is_dir():
                whole = self._of_folders(root / "PetImages", root, "Cat", "Dog")
                return divided(whole, split, self.test_share, self.seed)
            if any((root / "train").glob("cat.*")):
                whole = self._of_names(root / "train", root)
                return divided(whole, split, self.test_share, self.seed)
        raise UserError(
            "Expected `data.root` to hold training_set/cats, PetImages/Cat or train/cat.0.jpg, "
            f"but got none of them in {self.root}."
        )

    def _of_folders(self, folder: Path, root: Path, cats: str, dogs: str) -> Source:
        folders = dict(zip(CLASSES, (folder / cats, folder / dogs), strict=True))
        return file_source(folders, base=root, size=self.size, resize=self.resize)

    def _of_names(self, folder: Path, root: Path) -> Source:
        files = sorted(image_files(folder))
        by_class = {
            name: [file for file in files if Path(file[0]).name.startswith(f"{name}.")]
            for name in CLASSES
        }
        for name, found in by_class.items():
            if not found:
                raise UserError(
                    f"Expected `data.root` to hold images {name}.*.jpg, but {folder} has none."
                )
        return listed_source(by_class, base=root, size=self.size, resize=self.resize)


def _roots(root: Path) -> Iterator[Path]:
    """The folder itself, and the one in it that may hold this data set among others."""
    yield root
    if (root / "cats_dogs").is_dir():
        yield root / "cats_dogs"
