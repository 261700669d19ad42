"""Image caches that are no longer needed: which there are, and how they are removed."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from saliency_lab.data.held_file import held_alone
from saliency_lab.errors import UserError

LIMIT = "SALIENCY_LAB_CACHE_LIMIT"
"""Environment variable: the size that all caches together may have; not set, they may grow."""

_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(kB|MB|GB|TB)", re.IGNORECASE)
_FOLDER = re.compile(r".+-[0-9a-f]{20}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """A folder of decoded images: its bytes, and when it was last opened (seconds of the epoch)."""

    folder: Path
    size: int
    used: float


def found_caches(cache_dir: Path) -> list[Cache]:
    """Every cache in a folder, the longest unused first; interrupted ones among them."""
    folders = cache_dir.glob("*-*") if cache_dir.is_dir() else ()
    return sorted(
        (_read(path) for path in folders if path.is_dir() and _FOLDER.fullmatch(path.name)),
        key=lambda one: (one.used, one.folder.name),
    )


def remove_unused(cache_dir: Path, seconds: float) -> list[Cache]:
    """Remove the caches that no process has opened for so long; returns them."""
    limit = time.time() - seconds
    return list(_removed([one for one in found_caches(cache_dir) if one.used <= limit]))


def keep_below(cache_dir: Path, size: float, keep: Path | None = None) -> list[Cache]:
    """Remove the longest unused caches until all together have at most `size` bytes; returns them.

    Args:
        cache_dir: the folder of all caches.
        size: bytes.
        keep: the folder of a cache that stays whatever its size.
    """
    caches = found_caches(cache_dir)
    over = sum(one.size for one in caches) - size
    gone = []
    for one in caches:
        if over <= 0:
            break
        if one.folder != keep and (removed := list(_removed([one]))):
            gone += removed
            over -= one.size
    return gone


def cache_limit() -> float | None:
    """The bytes that $SALIENCY_LAB_CACHE_LIMIT allows, None where it is not set.

    Raises:
        UserError: it is no size.
    """
    text = os.environ.get(LIMIT)
    if not text:
        return None
    size = size_of(text)
    if size is None:
        raise UserError(f"Expected ${LIMIT} to be a size such as 20GB, but got '{text}'")
    return size


def size_of(text: str) -> float | None:
    """Bytes of "500MB" or "1.5 GB", decimal units; None for any other text."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    return float(found[1]) * next(v for n, v in _UNITS.items() if n.lower() == found[2].lower())


def megabytes(caches: Sequence[Cache]) -> float:
    """Their size in MB."""
    return sum(one.size for one in caches) / 1e6


def _read(folder: Path) -> Cache:
    files = [path.stat() for path in folder.iterdir() if path.is_file()]
    index = folder / "index.json"
    used = index.stat().st_mtime if index.is_file() else folder.stat().st_mtime
    return Cache(folder, sum(file.st_size for file in files), used)


def _removed(caches: Sequence[Cache]) -> Iterator[Cache]:
    """Those of the caches that could be removed: none that a process builds or has open."""
    for one in caches:
        lock = FileLock(one.folder.with_name(one.folder.name + ".lock"), timeout=0)
        try:
            with lock, held_alone(one.folder / "images.npy") as alone:
                if alone:
                    # Without its index a cache is none, should this be interrupted.
                    (one.folder / "index.json").unlink(missing_ok=True)
                    shutil.rmtree(one.folder)
                    yield one
                    continue
        except Timeout:
            pass
        _log.info("%s is in use and stays", one.folder)
