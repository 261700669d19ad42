"""Maps that a run keeps for every image, so that further evaluators compute none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from saliency_lab.attribution.core.estimate import Estimate
from saliency_lab.attribution.maps import BatchMaps, Completeness
from saliency_lab.runs.files import atomic_path

log = logging.getLogger(__name__)


class KeptMaps:
    """Blocks of maps on disk: float32, compressed, one Parquet file per block.

    They lie in the run's directory, whose name holds all that they depend on: data and split,
    classifier, attribution method, views, seed and precision.

    Args:
        folder: where the blocks lie.
        views: which views are kept.
    """

    def __init__(self, folder: Path, views: Sequence[str]) -> None:
        self.folder, self.views = folder, tuple(views)

    def has(self, start: int, ids: Sequence[str], pixels: str) -> bool:
        """Whether the maps of exactly these images, from `start` of the split on, are there.

        Maps of before their images' hash was kept beside them are taken for those of the names.
        """
        path = self._path(start, len(ids))
        if not path.is_file():
            return False
        try:
            table = pq.read_table(path, columns=["sample_id"])
        except (pa.ArrowInvalid, OSError) as error:
            log.warning("ignoring %s, which is corrupt: %s", path, str(error).splitlines()[0])
            return False
        of = (table.schema.metadata or {}).get(b"pixels", pixels.encode())
        return of == pixels.encode() and table["sample_id"].to_pylist() == list(ids)

    def write(self, start: int, ids: Sequence[str], found: BatchMaps, pixels: str) -> None:
        """Keep a block's maps, what was explained, and the logits of its intact images.

        Args:
            start: place of the block's first image in the split.
            ids: of its images.
            found: their maps.
            pixels: hash of the images (`Split.content`).
        """
        columns = {"sample_id": pa.array(list(ids))}
        for view in self.views:
            values = found.maps[view].float().cpu().contiguous().numpy()
            shape = values.shape[1:]
            flat = pa.array(values.reshape(-1))
            columns[view] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
        for name, array in _block_arrays(found).items():
            columns[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(array.reshape(-1)), array.shape[1]
            )
        height, width = next(iter(found.maps.values())).shape[1:]
        facts = {"height": str(height), "width": str(width), "pixels": pixels}
        table = pa.table(columns, metadata=facts)
        with atomic_path(self._path(start, len(ids))) as path:
            pq.write_table(
                table, path, compression="zstd", use_dictionary=False,
                use_byte_stream_split=[f"{view}.list.element" for view in self.views],
            )  # fmt: skip

    def read(self, start: int, count: int, device: torch.device) -> BatchMaps:
        """The maps and intact logits of a block that `has` them, on a device."""
        table = pq.read_table(self._path(start, count))
        size = [int(table.schema.metadata[name]) for name in (b"height", b"width")]

        def column(name: str) -> Tensor:
            flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return torch.from_numpy(flat.copy()).view(count, -1).to(device)

        maps = {view: column(view).view(-1, *size) for view in self.views}
        sums = column("completeness") if "completeness" in table.column_names else None
        errors = column("estimate") if "estimate" in table.column_names else None
        return BatchMaps(
            maps,
            column("targets")[:, 0],
            column("logits"),
            column("finite")[:, 0].bool(),
            None if sums is None else Completeness(sums[:, 0], sums[:, 1]),
            None if errors is None else Estimate(errors[:, 0].cpu(), errors[:, 1].long().cpu()),
        )

    def _path(self, start: int, count: int) -> Path:
        return self.folder / f"{start:08d}-{start + count:08d}.parquet"


def _block_arrays(found: BatchMaps) -> dict[str, np.ndarray]:
    arrays = {
        "targets": found.targets[:, None],
        "logits": found.logits.float(),
        "finite": found.finite[:, None].to(torch.uint8),
    }
    if found.completeness is not None:
        arrays["completeness"] = torch.stack([v.double() for v in found.completeness], 1)
    if found.estimate is not None:
        arrays["estimate"] = torch.stack([v.double() for v in found.estimate], 1)
    return {name: tensor.cpu().contiguous().numpy() for name, tensor in arrays.items()}
