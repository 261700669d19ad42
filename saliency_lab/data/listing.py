"""Trees of class folders as sources."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from saliency_lab.data.decoding import DECODING, SUFFIXES, Resize, file_reader
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
    if not path.is_dir():
        raise UserError(
            f"Expected `data.root` to be an existing folder, but got '{root}' ({path})."
        )
    return path


def class_folders(split_folder: Path) -> list[str]:
    """Sorted names of the folders in `split_folder`; hidden ones and that of the masks left out.

    Raises:
        UserError: there is no folder in it, or it is not there.
    """
    names = []
    if split_folder.is_dir():
        entries = [entry for entry in os.scandir(split_folder) if entry.is_dir()]
        names = sorted(entry.name for entry in entries if not entry.name.startswith((".", "__")))
        if holds_masks(split_folder, names):
            names.remove(MASKS)
    if not names:
        raise UserError(
            f"Expected `data.root` to hold one folder per class in {split_folder}, but got none."
        )
    return names


def has_images(folder: Path) -> bool:
    """Whether there is an image file in a folder or below it."""
    return next(_image_files(folder), None) is not None


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
    paths: list[Path] = []
    stamps: list[str] = []
    labels: list[int] = []
    for label, (name, folder) in enumerate(folders.items()):
        files = sorted(_image_files(folder)) if folder.is_dir() else []
        if not files and not (empty == "skip" and folder.is_dir()):
            state = "holds no image" if folder.is_dir() else "is not there"
            raise UserError(
                f"Expected `data.root` to hold images of class '{name}', but {folder} {state}."
            )
        for path, stamp in files:
            paths.append(Path(path))
            stamps.append(stamp)
            labels.append(label)
    if not paths:
        raise UserError(f"Expected `data.root` to hold images, but {base} holds none.")
    return Source(
        class_names=tuple(folders),
        ids=[path.relative_to(base).as_posix() for path in paths],
        labels=np.asarray(labels, dtype=np.int64),
        shape=(3, size, size),
        settings=f"{DECODING},{resize},{size}",
        read=file_reader(paths, size, resize),
        place=str(base),
        stamps=stamps,
    )


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


def _image_files(folder: Path | str) -> Iterator[tuple[str, str]]:
    """Every image file below `folder` with its size and time of change."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _image_files(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                state = entry.stat()
                yield entry.path, f"{state.st_size}:{state.st_mtime_ns}"
