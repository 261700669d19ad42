"""Any tree of class folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from saliency_lab.data.decoding import Resize
from saliency_lab.data.listing import (
    class_folders,
    divided,
    existing_root,
    file_source,
    same_classes,
)
from saliency_lab.data.module import ImageData
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError

_TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(kw_only=True, eq=False, repr=False)
class Folder(ImageData):
    """Class folders in `root/train` and `root/test` (or `val`), or in `root` itself.

    In the second layout a seeded share of every class is the test split.

    Args:
        size: height and width of the images.
        resize: `stretch` ignores the aspect, `crop` takes the middle.
        test_share: share of every class that is tested on, where there are no split folders.
    """

    name: str = "folder"
    size: Annotated[int, Gt(0)] = 224
    resize: Resize = "stretch"
    test_share: Annotated[float, Gt(0), Lt(1)] = 0.2

    def source(self, split: Literal["train", "test"]) -> Source:
        if self.root is None:
            raise UserError("Expected `data.root` to be a folder of class folders, but got none.")
        root = existing_root(self.root)
        if (root / "train").is_dir():
            return self._of_split(root, split)
        names = class_folders(root)
        whole = file_source(
            {name: root / name for name in names}, base=root, size=self.size, resize=self.resize
        )
        return divided(whole, split, self.test_share, self.seed)

    def _of_split(self, root: Path, split: Literal["train", "test"]) -> Source:
        found = [root / name for name in _TEST_NAMES if (root / name).is_dir()]
        if not found:
            raise UserError(
                f"Expected `data.root` to hold a folder named test or val beside {root / 'train'}, "
                "but got neither."
            )
        names = same_classes(root / "train", found[0])
        folder = root / "train" if split == "train" else found[0]
        return file_source(
            {name: folder / name for name in names}, base=root, size=self.size, resize=self.resize
        )
