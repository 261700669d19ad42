"""Trees of class folders as sources."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from saliency_lab.data.decoding import DECODING, SUFFIXES, Resize, file_reader
from saliency_lab.data.selection import held_out
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError

MASKS = "masks"
"""Folder beside the classes of a folder data set with the evidence of their images."""


def existing_root(root: str) -> Path:
    """`data.root` as an absolute path.

    Raises:
        UserError: there is no such folder.
    """
    path = Path(root).expanduser().absolute()
    # Empty text is a variable of the shell that is not set, and not the current folder.
    if not root.strip() or not path.is_dir():
        meant = "" if root == str(path) else f" ({path})"
        raise UserError(f"Expected `data.root` to be an existing folder, but got '{root}'{meant}.")
    return path


def class_folders(split_folder: Path) -> list[str]:
    """Sorted names of the folders in `split_folder`; hidden ones and that of the masks left out.

    Raises:
        UserError: there is no folder in it, or it is not there.
    """
    names = []
    if split_folder.is_dir():
        entries = [entry for entry, is_folder in _scanned(split_folder) if is_folder]
        names = sorted(entry.name for entry in entries if not entry.name.startswith((".", "__")))
        if holds_masks(split_folder, names):
            names.remove(MASKS)
    if not names:
        raise UserError(
            f"Expected `data.root` to hold one folder per class in {split_folder}, but got none."
        )
    for name in names:
        # Every file of a run names the classes, in UTF-8.
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(
                "Expected `data.root` to hold class folders whose names are text, but got "
                f"{os.fsencode(name)!r} in {split_folder}."
            )
    return names


def has_images(folder: Path) -> bool:
    """Whether there is an image file in a folder or below it."""
    return next(image_files(folder), None) is not None


def holds_masks(split_folder: Path, names: Collection[str]) -> bool:
    """Whether `masks` among these folders holds the evidence of the classes beside it, and is no
    class itself: it has folders of the same names.
    """
    folder = split_folder / MASKS
    return folder.is_dir() and any((folder / name).is_dir() for name in names if name != MASKS)


def file_source(
    folders: Mapping[str, Path],
    *,
    base: Path,
    size: int,
    resize: Resize,
    empty: Literal["error", "skip"] = "error",
) -> Source:
    """The image files below class folders, in the order of the classes and of their paths.

    Args:
        folders: class name to its folder, in label order; read with its subfolders.
        base: folder that the samples' ids are relative to.
        size: height and width of the decoded images.
        resize: see `decoding.decoded`.
        empty: `skip` lets a class have no image, as long as another one has.

    Raises:
        UserError: a class folder is missing or holds no image.
    """
    files: dict[str, list[tuple[str, str]]] = {}
    for name, folder in folders.items():
        files[name] = sorted(image_files(folder)) if folder.is_dir() else []
        if not files[name] and not (empty == "skip" and folder.is_dir()):
            state = "holds no image" if folder.is_dir() else "is not there"
            raise UserError(
                f"Expected `data.root` to hold images of class '{name}', but {folder} {state}."
            )
    if not any(files.values()):
        raise UserError(f"Expected `data.root` to hold images, but {base} holds none.")
    return listed_source(files, base=base, size=size, resize=resize)


def listed_source(
    files: Mapping[str, Sequence[tuple[str, str]]], *, base: Path, size: int, resize: Resize
) -> Source:
    """Image files by class, in the order given.

    Args:
        files: class name to paths below `base` with their stamps, in label order.
        base, size, resize: see `file_source`.
    """
    paths = [Path(path) for found in files.values() for path, _ in found]
    labels = [label for label, found in enumerate(files.values()) for _ in found]
    return Source(
        class_names=tuple(files),
        ids=[path.relative_to(base).as_posix() for path in paths],
        labels=np.asarray(labels, dtype=np.int64),
        shape=(3, size, size),
        settings=f"{DECODING},{resize},{size}",
        read=file_reader(paths, size, resize),
        place=str(base),
        stamps=[stamp for found in files.values() for _, stamp in found],
    )


def divided(whole: Source, split: str, test_share: float, seed: int) -> Source:
    """The test split is about this share of every class, the training split the rest.

    Raises:
        UserError: no class has two images, one of them to test on.
    """
    kept, held = held_out(whole.labels, whole.ids, test_share, (seed, 3))
    if not len(held):
        raise UserError(
            f"Expected `data.root` to hold a class of two or more images, one of them to test "
            f"on, but got {len(whole)} in {len(whole.class_names)} classes in {whole.place}."
        )
    return whole.part(np.asarray(kept if split == "train" else held))


def same_classes(train: Path, test: Path) -> list[str]:
    """Class folders of two splits, which must be the same.

    Raises:
        UserError: one split has a class that the other has not.
    """
    names, others = class_folders(train), class_folders(test)
    odd = sorted(set(names) ^ set(others))
    if odd:
        where = train if odd[0] in names else test
        raise UserError(
            f"Expected `data.root` to hold the same classes in {train} and {test}, "
            f"but got '{odd[0]}' in {where} only."
        )
    return names


def image_files(folder: Path | str) -> Iterator[tuple[str, str]]:
    """Every image file below `folder` with its size and time of change.

    Raises:
        UserError: a folder cannot be read, or links lead round in a circle.
    """
    for entry, is_folder in _scanned(folder):
        if entry.name.startswith("."):
            continue
        if is_folder:
            yield from image_files(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            try:
                state = entry.stat()
            except OSError:  # a link to nowhere: whoever reads the image says what is wrong
                yield entry.path, ""
            else:
                yield entry.path, f"{state.st_size}:{state.st_mtime_ns}"


def _scanned(folder: Path | str) -> list[tuple[os.DirEntry[str], bool]]:
    """What is in a folder, and whether it is one itself."""
    try:
        with os.scandir(folder) as entries:
            return [(entry, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise UserError(
            f"Expected `data.root` to hold readable folders, but got '{folder}': {error.strerror}"
        ) from error
