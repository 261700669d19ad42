"""Maps that someone else has made, read from a file: measured as they are, never computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_lab.attribution.core.field import input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sources import stored_only
from saliency_lab.attribution.core.stored_maps import Opened, opened_maps
from saliency_lab.errors import UserError

_SHOWN = 3
_AT_ONCE = 1000


@dataclass(frozen=True)
class StoredMaps:
    """Maps by sample id, on disk.

    Attributes:
        values: the maps (N, H, W); read when they are indexed.
        rows: the row of each sample id.
        path: of the file, for messages.
        by_stem: a sample that is called by a file goes by its name without the suffix as well.
    """

    values: Any
    rows: Mapping[str, int]
    path: str
    by_stem: bool = False

    def of(self, ids: Sequence[str | int]) -> Tensor:
        """The maps of these samples, float32 (B, H, W).

        Raises:
            UserError: there is none for one of them.
        """
        rows = [self.row(str(one)) for one in ids]
        missing = [str(one) for one, row in zip(ids, rows, strict=True) if row is None]
        if missing:
            raise UserError(
                f"Expected `method.maps` to have a map for every image, but '{self.path}' has none "
                f"for {len(missing)} of {len(ids)} ({', '.join(missing[:_SHOWN])}"
                f"{', …' if len(missing) > _SHOWN else ''})"
            )
        return torch.from_numpy(np.stack([_as_float32(self.values[row]) for row in rows]))

    def row(self, sample: str) -> int | None:
        """The row of a sample's map, or None."""
        if sample in self.rows or not self.by_stem:
            return self.rows.get(sample)
        return self.rows.get(PurePosixPath(sample).with_suffix("").as_posix())


def _as_float32(values: Any) -> NDArray[np.float32]:
    """A map in float32; one whose numbers it cannot hold is scaled to a largest one of 1."""
    exact = np.asarray(values)
    if exact.dtype.kind == "f" and exact.dtype.itemsize > 4:
        largest = float(np.abs(exact).max(initial=0))
        limits = np.finfo(np.float32)
        if np.isfinite(largest) and largest and not limits.tiny <= largest <= limits.max:
            exact = exact / largest
    return exact.astype(np.float32)


@input_gradients_only
@stored_only
def file_maps(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    maps: str | None = None,
    ids: str | None = None,
    stored: StoredMaps | None = None,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """The maps of these samples from a file; the model, the pixels and the targets are not read.

    Args:
        model: not asked.
        images: (B, C, H, W); the maps must have their height and width.
        targets: (B,); the file's maps are taken to explain the predicted class.
        maps: `.npy` (N, H, W), `.npz` (`maps` and maybe `ids`), `.zarr`, or a folder of
            PNGs called by their sample ids. Any range and sign; PNGs are 8 or 16 bit grey levels,
            scaled to [0, 1].
        ids: `.txt` with an id a line, or `.npy`: the sample of each map, in the file's order.
        stored: the maps, once opened for the images of a run (`stored_maps`).
        generator: holds the ids of these samples.

    Returns:
        (B, H, W) float32, as they are in the file.

    Raises:
        UserError: no file, no ids, a sample without a map, or maps of another size.
    """
    if generator is None:
        raise UserError(
            "Expected the sample ids of the images with method=file, but got none: "
            "sl.explain takes `sample_ids`"
        )
    opened = stored or stored_maps(maps, ids, None, tuple(images.shape[2:]))
    return opened.of(generator.sample_ids).to(images.device)


def stored_maps(
    maps: str | None,
    ids: str | None,
    order: Sequence[str] | None,
    size: tuple[int, ...],
) -> StoredMaps:
    """The maps of a file, checked once: their number, size and that every one is finite.

    Args:
        maps, ids: as of `file_maps`.
        order: ids of all measured images in the data set's order, for a file without ids; with
            ids, each of these must have a map. None where they are not known.
        size: (H, W) of the images.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    if maps is None:
        raise UserError(
            "Expected `method.maps` to be a file of maps (.npy, .npz, .zarr) or a folder of PNGs, "
            "but got null"
        )
    opened = opened_maps(Path(maps).expanduser(), None if ids is None else Path(ids).expanduser())
    named = opened.ids
    if named is None:
        named = _in_order(opened, order, maps)
    repeated = len(named) - len(set(named))
    if repeated:
        raise UserError(
            f"Expected `method.ids` to name each sample once, but {repeated} are named again"
        )
    rows = {name: row for row, name in enumerate(named)}
    found = StoredMaps(opened.values, rows, maps, opened.pictures)
    _check_size(opened, size, maps)
    wanted = list(named if order is None else order)
    used = [row for one in wanted if (row := found.row(one)) is not None]
    if len(set(used)) < len(used):
        raise UserError(
            f"Expected each sample to have a map of its own, but some of '{maps}' are of several: "
            "call them by the whole name, such as 1.jpg.png"
        )
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        finite = found.of(part).isfinite().flatten(1).all(1).tolist()
        bad = [name for name, ok in zip(part, finite, strict=True) if not ok]
        if bad:
            raise UserError(
                f"Expected `method.maps` to be finite, but '{maps}' holds NaN or infinity for "
                f"{', '.join(bad[:_SHOWN])}{', …' if len(bad) > _SHOWN else ''}"
            )
    return found


def needs_file(source: Callable[..., Any]) -> bool:
    """Whether a source, its settings bound or not, reads its maps from a file."""
    return getattr(source, "func", source) is file_maps


def _in_order(opened: Opened, order: Sequence[str] | None, maps: str) -> list[str]:
    if order is None:
        raise UserError(
            f"Expected `method.ids` to say which samples the maps of '{maps}' belong to, but got "
            "null; only an evaluation of all images of a data set can do without"
        )
    if len(opened) != len(order):
        raise UserError(
            f"Expected `method.maps` to hold a map for each of the {len(order)} images that are "
            f"measured, in the data set's order, but '{maps}' holds {len(opened)}; with "
            "`method.ids` it may hold others, too"
        )
    return list(order)


def _check_size(opened: Opened, size: tuple[int, ...], maps: str) -> None:
    height, width = size
    for row in range(len(opened)) if opened.pictures else range(min(1, len(opened))):
        found = tuple(np.shape(opened.values[row]))
        if found != (height, width):
            got = "×".join(str(length) for length in found)
            raise UserError(
                f"Expected `method.maps` to hold maps of the images' size, {height}×{width}, but "
                f"'{maps}' holds {got}; resize them as their method would have"
            )
