"""Files of maps in the forms that other programs write them in."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from saliency_lab.errors import UserError

_FORMS = "a .npy, .npz or .zarr of shape (N, H, W), or a folder of PNGs called by sample ids"
_DEPTH = {"L": 255.0, "I;16": 65535.0, "I;16B": 65535.0, "I": 65535.0}


@dataclass(frozen=True)
class Opened:
    """Maps on disk: `values[row]` is one of them, `ids[row]` its sample, where the file says.

    `pictures`: of a folder, where each may have a size of its own and is called by its sample.
    """

    values: Any
    ids: list[str] | None
    pictures: bool = False

    def __len__(self) -> int:
        return len(self.values) if self.pictures else int(self.values.shape[0])


def opened_maps(path: Path, ids: Path | None) -> Opened:
    """The maps of a file or folder, not yet in memory where its form allows.

    Args:
        path: `.npy`, `.npz` with `maps` and maybe `ids`, `.zarr` with the same (zarr installed),
            or a folder with `ID.png` for each sample, ids with a slash in folders.
        ids: the sample of each map: `.txt` with one a line, or `.npy`; None: as the file says.

    Raises:
        UserError: there is no such file, it is of another form or kind, or the ids do not fit.
    """
    if not path.exists():
        raise UserError(f"Expected `method.maps` to be {_FORMS}, but there is none at '{path}'")
    if path.suffix == ".zarr":
        values, own = _zarr(path)
    elif path.is_dir():
        return _folder(path, ids)
    else:
        values, own = _numpy(path)
    kind = np.dtype(values.dtype)
    if len(values.shape) != 3 or kind.kind not in "fiu":
        raise UserError(
            f"Expected `method.maps` to be {_FORMS}, but '{path}' holds {tuple(values.shape)} of "
            f"{kind}"
        )
    named = own if ids is None else _ids_file(ids)
    # An array of zarr's has a shape but no length.
    if named is not None and len(named) != values.shape[0]:
        raise UserError(
            f"Expected `method.ids` to name the sample of each of {values.shape[0]} maps, but got "
            f"{len(named)}"
        )
    return Opened(values, named)


def _numpy(path: Path) -> tuple[NDArray[Any], list[str] | None]:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"Expected `method.maps` to be {_FORMS}, but '{path}' cannot be read: {error}"
        ) from error
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        return loaded, None
    with loaded:
        names = [name for name in loaded.files if name != "ids"]
        name = "maps" if "maps" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise UserError(
                f"Expected `method.maps` to have an array `maps`, but '{path}' has {names}"
            )
        return loaded[name], _texts(loaded["ids"]) if "ids" in loaded.files else None


def _zarr(path: Path) -> tuple[Any, list[str] | None]:
    try:
        zarr = importlib.import_module("zarr")
    except ImportError as error:
        raise UserError(
            f"Expected zarr to be installed for `method.maps={path}`, but it is not: "
            "pip install zarr"
        ) from error
    found = zarr.open(str(path), mode="r")
    if hasattr(found, "shape"):
        return found, None
    if "maps" not in found:
        raise UserError(f"Expected `method.maps` to have an array `maps`, but '{path}' has none")
    return found["maps"], _texts(found["ids"][:]) if "ids" in found else None


class _Pictures:
    """PNGs of a folder as a sequence of maps, each read when it is asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        file = self.files[row]
        try:
            with Image.open(file) as picture:
                depth = _DEPTH.get(picture.mode)
                levels = np.asarray(picture, dtype=np.float32)
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(
                f"Expected `method.maps` to hold readable PNGs, but '{file}' is not: {error}"
            ) from error
        if depth is None:
            raise UserError(
                f"Expected `method.maps` to hold grey PNGs, whose level is the map's value, but "
                f"'{file}' is of mode {picture.mode}; a coloured map has lost its numbers"
            )
        return levels / np.float32(depth)


def _folder(path: Path, ids: Path | None) -> Opened:
    files = sorted(path.rglob("*.png"))
    if not files:
        raise UserError(f"Expected `method.maps` to be {_FORMS}, but '{path}' holds no PNG")
    if ids is not None:
        raise UserError("Expected no `method.ids` with a folder of PNGs, whose names are the ids")
    names = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    return Opened(_Pictures(files), names, pictures=True)


def _ids_file(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"Expected `method.ids` to be a file, but there is none at '{path}'")
    if path.suffix == ".npy":
        try:
            return _texts(np.load(path, allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise UserError(
                f"Expected `method.ids` to be readable, but '{path}' is not: {error}"
            ) from error
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def _texts(array: NDArray[Any]) -> list[str]:
    if array.ndim != 1:
        raise UserError(f"Expected the ids of `method.maps` in one row, but got {array.shape}")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in array.tolist()]
