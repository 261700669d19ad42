"""Any tree of class folders."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from saliency_lab.data.decoding import Resize
from saliency_lab.data.listing import (
    MASKS,
    class_folders,
    existing_root,
    file_source,
    has_images,
    holds_masks,
    same_classes,
)
from saliency_lab.data.masks import decoded_mask
from saliency_lab.data.module import ImageData, SplitName
from saliency_lab.data.selection import held_out
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError

_TEST_NAMES = ("test", "val", "valid", "validation")


_log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class Folder(ImageData):
    """Class folders in `root/train` and `root/test` (or `val`), or in `root` itself.

    In the second layout a hash of (seed, path below `root`) decides which images are tested on,
    about `test_share` of every class. An image stays on its side whatever other images come or go,
    except in a class so small that chance leaves one side empty: there one image is moved, and
    later ones may take its place (`selection.held_out` says which way). A class of two or more
    images has one on either side at least.

    Under `on_corrupt=skip` a class without a training image is left out, and one without a test
    image is trained but not tested; both are named.

    A folder `masks` beside the classes holds the evidence: masks/<class>/<name of the image>.png,
    not black where it lies (see `masks.decoded_mask`).

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
        names = self._with_images(root, class_folders(root), say=split == "train")
        whole = self._files({name: root / name for name in names}, root)
        kept, held = held_out(whole.labels, whole.ids, self.test_share, (self.seed, 3))
        if not len(held):
            raise UserError(
                f"Expected `data.root` to hold a class of two or more images, one of them to test "
                f"on, but got {len(whole)} in {len(names)} classes in {root}."
            )
        return whole.part(np.asarray(kept if split == "train" else held))

    def has_masks(self, split: SplitName) -> bool:
        folder = self._classes_of(split)
        if not holds_masks(folder, self.class_names):
            return False
        missing = [path for _, path in self._mask_files(self.ids(split)) if not path.is_file()]
        if missing:
            raise UserError(
                "Expected `data.root` to hold a mask of every image or none at all, but "
                f"{len(missing)} are not there, the first of them {missing[0]}."
            )
        return True

    def masks(
        self, split: SplitName, indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.bool]:
        """Evidence at these positions of the split: bool (n, size, size).

        Raises:
            UserError: a mask is not there, cannot be read or has another size than its image.
        """
        ids = self.ids(split)
        files = self._mask_files([ids[int(index)] for index in indices])
        found = [decoded_mask(mask, image, self.size, self.resize) for image, mask in files]
        return np.stack(found) if found else np.zeros((0, self.size, self.size), dtype=np.bool)

    def _classes_of(self, split: SplitName) -> Path:
        """The folder that holds the class folders of a split."""
        root = existing_root(str(self.root))
        return (
            root / PurePosixPath(self.ids(split)[0]).parts[0] if self._divided_by_folders else root
        )

    @property
    def _divided_by_folders(self) -> bool:
        return (existing_root(str(self.root)) / "train").is_dir()

    def _mask_files(self, ids: Sequence[str]) -> list[tuple[Path, Path]]:
        """Per sample its image and where its mask belongs."""
        root, above = existing_root(str(self.root)), 1 if self._divided_by_folders else 0
        files = []
        for sample in ids:
            parts = PurePosixPath(sample).parts
            mask = root.joinpath(*parts[:above], MASKS, *parts[above:])
            files.append((root / sample, mask.with_suffix(".png")))
        return files

    def _of_split(self, root: Path, split: Literal["train", "test"]) -> Source:
        found = [root / name for name in _TEST_NAMES if (root / name).is_dir()]
        if not found:
            raise UserError(
                f"Expected `data.root` to hold a folder named test or val beside {root / 'train'}, "
                "but got neither."
            )
        names = same_classes(root / "train", found[0])
        names = self._with_images(root / "train", names, say=split == "train")
        folder = root / "train" if split == "train" else found[0]
        if split == "test":
            self._with_images(folder, names, say=True)
        return self._files({name: folder / name for name in names}, root)

    def _files(self, folders: dict[str, Path], base: Path) -> Source:
        return file_source(
            folders, base=base, size=self.size, resize=self.resize, empty=self.on_corrupt
        )

    def _with_images(self, folder: Path, names: list[str], *, say: bool) -> list[str]:
        """The classes that have an image in `folder`, where those without may be left out."""
        if self.on_corrupt == "error":
            return names
        empty = [name for name in names if not has_images(folder / name)]
        if empty and say:
            _log.warning("No image in %s of: %s.", folder, ", ".join(empty))
        return [name for name in names if name not in empty]
