"""Rows of an evaluator, one file per block of samples: what is there is done, after any kill."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saliency_lab.runs.files import atomic_path

log = logging.getLogger(__name__)

_META = b"saliency_lab"
Pixels = Callable[[Sequence[int]], str]


class Shards:
    """The finished blocks of one evaluator on disk, and their merge.

    A block is `START-STOP.parquet` (its rows, with counts and costs as metadata) and, where it
    holds example images, `START-STOP.npz`. Every process writes its own blocks.

    Args:
        folder: where the blocks lie.
        size: samples of the split.
        block: samples per block.
    """

    def __init__(self, folder: Path, size: int, block: int) -> None:
        self.folder = folder
        self.size, self.block = size, block
        self.count = -(-size // block)

    def path(self, number: int) -> Path:
        """Where block `number`'s rows are."""
        start = number * self.block
        stop = min(start + self.block, self.size)
        return self.folder / f"{start:08d}-{stop:08d}.parquet"

    def done(self) -> list[int]:
        """Numbers of the blocks that need no work; a truncated one is named and done again."""
        return [number for number in range(self.count) if self.has(number)]

    def has(self, number: int) -> bool:
        """Whether block `number` is there and whole."""
        return self.path(number).is_file() and self._is_whole(number)

    def write(
        self,
        number: int,
        rows: pd.DataFrame,
        meta: Mapping[str, Any],
        examples: Mapping[str, NDArray[Any]] | None,
    ) -> None:
        """Write a block; the rows come last, so that a block with rows is whole."""
        path = self.path(number)
        if examples:
            with atomic_path(path.with_suffix(".npz")) as temporary:
                np.savez(temporary, allow_pickle=False, **dict(examples))
        table = pa.Table.from_pandas(rows, preserve_index=False)
        kept = {**(table.schema.metadata or {}), _META: json.dumps(dict(meta)).encode()}
        with atomic_path(path) as temporary:
            pq.write_table(table.replace_schema_metadata(kept), temporary)

    def rows(self) -> pd.DataFrame:
        """All rows of all blocks, in the samples' order."""
        tables = [pq.read_table(path) for path in self._files()]
        # A block in which an evaluator has nothing to measure knows no types of its columns.
        filled = [table for table in tables if table.num_rows] or tables[:1]
        return pa.concat_tables(filled).to_pandas()

    def metas(self) -> Iterator[dict[str, Any]]:
        """The metadata of every block, in order."""
        for number in range(self.count):
            yield self.meta(number)

    def meta(self, number: int) -> dict[str, Any]:
        """The metadata of block `number`, which must be done."""
        found: dict[str, Any] = json.loads(pq.read_schema(self.path(number)).metadata[_META])
        return found

    def examples(self) -> dict[str, NDArray[Any]]:
        """The example arrays of all blocks, joined along the first axis."""
        found: dict[str, list[NDArray[Any]]] = {}
        for path in self._files():
            if path.with_suffix(".npz").is_file():
                with np.load(path.with_suffix(".npz")) as arrays:
                    for name in arrays.files:
                        found.setdefault(name, []).append(arrays[name])
        return {name: np.concatenate(arrays) for name, arrays in found.items()}

    def is_of(self, number: int, ids: Sequence[str], pixels: Pixels) -> bool:
        """Whether the rows of block `number`, which must be done, are of these images.

        Args:
            number: of the block.
            ids: of all images of the split.
            pixels: the hash of those at some places of the split (`Split.content`).
        """
        start = number * self.block
        was = self.meta(number).get("pixels")
        if was is not None and was != pixels(range(start, min(start + self.block, self.size))):
            return False
        rows = pq.read_table(self.path(number), columns=["sample_id", "index"]).to_pydict()
        places = zip(rows["index"], rows["sample_id"], strict=True)
        return all(place < len(ids) and ids[place] == sample for place, sample in places)

    def discard(self, number: int) -> None:
        """Remove a block, which is then to be done again."""
        self.path(number).unlink(missing_ok=True)
        self.path(number).with_suffix(".npz").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all blocks, also of another block size."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return [self.path(n) for n in range(self.count)]

    def _is_whole(self, number: int) -> bool:
        path = self.path(number)
        arrays = path.with_suffix(".npz")
        if arrays.is_file() and not zipfile.is_zipfile(arrays):
            log.warning("ignoring %s, which is truncated", arrays)
            return False
        return _readable(path)


def _readable(path: Path) -> bool:
    """Whether a Parquet file is whole as far as its end tells; says so if it is not."""
    try:
        pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        log.warning("ignoring %s, which is truncated: %s", path, str(error).splitlines()[0])
        return False
    return True
