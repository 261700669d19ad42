"""Images decoded once into a memory-mapped file that processes share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from saliency_lab.data.held_file import hold_together
from saliency_lab.data.old_caches import cache_limit, keep_below, megabytes
from saliency_lab.data.source import Pixels, Source, Unreadable
from saliency_lab.errors import UserError
from saliency_lab.runs.files import atomic_path, write_json
from saliency_lab.runs.progress import shown_progress

_VERSION = 1
_CHUNK_BYTES = 4 << 20
_log = logging.getLogger(__name__)


class CachedImages:
    """A finished cache: a read-only map of uint8 (N, C, H, W); pickles as its path.

    Args:
        path: the `.npy` file.
        unreadable: position to path and reason, for images that could not be decoded.
    """

    def __init__(self, path: Path, unreadable: Unreadable) -> None:
        self.path = path
        self.unreadable = unreadable
        # Nobody removes the file while it is open here (`old_caches`).
        hold_together(path, self)
        # A plain array view: the memmap subclass slows every gather down.
        self.array: Pixels = np.asarray(np.load(path, mmap_mode="r"))

    def __reduce__(self) -> tuple[type[CachedImages], tuple[Path, Unreadable]]:
        return CachedImages, (self.path, self.unreadable)

    def take(self, rows: NDArray[np.int64]) -> Pixels:
        """Copies of these images, uint8 (n, C, H, W)."""
        return self.array[rows]

    def digests(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """What changes when a pixel of these images does: uint64 (n,), one hash for each."""
        # Without the file, or with a damaged one, they are made from the pixels: only slower.
        with contextlib.suppress(OSError, ValueError, EOFError):
            found: NDArray[np.uint64] = np.load(_digests_path(self.path))
            if found.shape == (len(self.array),) and found.dtype == np.uint64:
                return found[rows]
        return image_digests(self.array[row] for row in rows)


def image_digests(images: Iterable[Pixels]) -> NDArray[np.uint64]:
    """A hash of the pixels of each image, uint64 (n,)."""
    hashes = (hashlib.blake2b(np.ascontiguousarray(one).data, digest_size=8) for one in images)
    return np.asarray([int.from_bytes(one.digest()) for one in hashes], dtype=np.uint64)


def default_cache_dir() -> Path:
    """$SALIENCY_LAB_CACHE, or the user's cache folder."""
    chosen = os.environ.get("SALIENCY_LAB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "saliency_lab"


def cached_images(source: Source, cache_dir: Path, name: str) -> CachedImages:
    """The decoded images of `source`: found in `cache_dir`, or made there by one process.

    The folder's name holds a hash over the list of files with their sizes and times and over the
    decode settings. The image file is written aside and renamed, the index after it: without a
    matching index a cache is not used, so one that was interrupted is made anew.

    Where $SALIENCY_LAB_CACHE_LIMIT is set, making one removes the longest unused others that no
    process has open, until all together are below it.

    Raises:
        UserError: the disk is full, `cache_dir` cannot be written, or the limit is no size.
    """
    folder = cache_dir / f"{name}-{source.key()}"
    found = _finished(folder, source)
    if found is not None:
        # The time of the last use; a cache that others own cannot be marked, and need not be.
        with contextlib.suppress(OSError):
            os.utime(folder / "index.json")
        return found
    limit = cache_limit()
    made = _found_or_made(folder, source, name)
    if limit is not None and (gone := keep_below(cache_dir, limit, keep=folder)):
        _log.info("removed %d older image caches, %.0f MB", len(gone), megabytes(gone))
    return made


def _found_or_made(folder: Path, source: Source, name: str) -> CachedImages:
    with _Held(folder.with_name(folder.name + ".lock")):
        found = _finished(folder, source)
        return found if found is not None else _made(folder, source, name)


def _finished(folder: Path, source: Source) -> CachedImages | None:
    """The cache in `folder` if it is whole, else None (with a log line where it is damaged)."""
    index_path, path = folder / "index.json", folder / "images.npy"
    if not index_path.exists():
        return None
    try:
        index: dict[str, Any] = json.loads(index_path.read_text(encoding="utf-8"))
        unreadable = {int(row): reason for row, reason in index["unreadable"].items()}
        expected, actual = index["bytes"], path.stat().st_size
        if actual != expected:
            raise ValueError(f"{path.name} has {actual:,} bytes instead of {expected:,}")
        images = CachedImages(path, unreadable)
        if images.array.shape != (len(source), *source.shape) or images.array.dtype != np.uint8:
            raise ValueError(f"{path.name} has the shape {images.array.shape}")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        _log.warning("The image cache %s is corrupt (%s): rebuilding it.", folder, error)
        return None
    if any(row not in source.read([row])[1] for row in unreadable):
        # It was not the files that were damaged: their rights, or the disk for a while.
        _log.info("Images that could not be read can be read now: rebuilding %s.", folder)
        return None
    return images


def _made(folder: Path, source: Source, name: str) -> CachedImages:
    for leftover in folder.glob(".images.*.part.npy"):
        leftover.unlink()
    path, unreadable = folder / "images.npy", {}
    _digests_path(path).unlink(missing_ok=True)
    digests: list[NDArray[np.uint64]] = []
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(source), *source.shape)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        # Written, not mapped: on a full disk a write raises where a mapped page kills the process.
        for pixels, failed, hashes in shown_progress(
            _decoded(source),
            total=len(source),
            title=f"decoding {name}",
            unit="images",
            count=lambda chunk: len(chunk[0]),
        ):
            file.write(pixels.data)
            unreadable.update(failed)
            digests.append(hashes)
    with atomic_path(_digests_path(path)) as temporary:
        np.save(temporary, np.concatenate(digests))
    entry = {
        "version": _VERSION,
        "bytes": path.stat().st_size,
        "place": source.place,
        "settings": source.settings,
        "unreadable": {str(row): reason for row, reason in sorted(unreadable.items())},
    }
    write_json(folder / "index.json", entry)
    return CachedImages(path, unreadable)


def _digests_path(path: Path) -> Path:
    """Where the hashes of a cache's images are, if it was not made before there were any."""
    return path.with_suffix(".digests.npy")


_Chunk = tuple[Pixels, Unreadable, NDArray[np.uint64]]


def _decoded(source: Source) -> Iterator[_Chunk]:
    """Chunks in order, decoded by threads, never more than a few of them in memory.

    Threads do: Pillow lets go of the interpreter's lock while it decodes and resizes.
    """
    size = int(np.clip(_CHUNK_BYTES // int(np.prod(source.shape)), 1, 512))
    starts = iter(range(0, len(source), size))
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:

        def read(start: int) -> _Chunk:
            pixels, unreadable = source.read(range(start, min(start + size, len(source))))
            return pixels, unreadable, image_digests(pixels)

        def submitted(start: int) -> Future[_Chunk]:
            return pool.submit(read, start)

        waiting = deque(submitted(start) for start in islice(starts, threads + 2))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(submitted(start) for start in islice(starts, 1))
        finally:
            for future in waiting:
                future.cancel()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Held:
    """The lock of a cache; says so once when another process has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path)

    def __enter__(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=1)
            except Timeout:
                _log.info("Waiting for another process to build %s.", self._path.stem)
                self._lock.acquire()
        except OSError as error:
            raise UserError(
                f"Expected `data.cache_dir` (or $SALIENCY_LAB_CACHE) to be writable, but got "
                f"'{self._path.parent}': {error.strerror}"
            ) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()
