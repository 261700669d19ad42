"""The content that a configuration stands for: code outside this package, and files it names."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DIGITS = 10
"""Of a digest in a name."""

# Settings that may name a folder whose files decide numbers.
_FOLDERS = ("maps", "folder")
_FILES = ("maps", "ids", "file", "weights")
# One command asks for its digests several times, which takes seconds for files from here on.
_LARGE = 2**20


def component_source(component: Mapping[str, Any]) -> str | None:
    """Digest of the text of a component's module and of the files that its settings name.

    None where the component is this package's own and names no file. Nothing is imported but the
    packages that hold the module.
    """
    state, found = hashlib.sha256(), False
    for text in _outside(component):
        state.update(text)
        found = True
    return state.hexdigest()[:DIGITS] if found else None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _outside(component: Mapping[str, Any]) -> Iterator[bytes]:
    for key, value in component.items():
        if isinstance(value, Mapping):
            yield from _outside(value)
        elif key in ("_target_", "target"):
            module = str(value).rpartition(".")[0]
            if module and module.partition(".")[0] != __name__.partition(".")[0]:
                yield from _module_text(module)
        elif isinstance(value, str) and _names_file(key, value):
            yield _digest_of(Path(value).expanduser()).encode()
        elif key in _FOLDERS and isinstance(value, str) and Path(value).expanduser().is_dir():
            yield from _folder_content(Path(value).expanduser())


def _names_file(key: str, value: str) -> bool:
    # A word without a suffix is a choice, even where a file of that name happens to lie about.
    path = Path(value)
    named = key in _FILES or bool(path.suffix)
    return len(value) < 4096 and named and path.expanduser().is_file()


def _folder_content(folder: Path) -> Iterator[bytes]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.relative_to(folder).as_posix().encode()
        yield _digest_of(path).encode()


def _digest_of(path: Path) -> str:
    state = path.stat()
    if state.st_size < _LARGE:
        return file_digest(path)
    return _digest_at(path.absolute(), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _digest_at(path: Path, changed: int, size: int) -> str:
    """A large file's digest, computed once for each time of change."""
    return file_digest(path)


def _module_text(module: str) -> Iterator[bytes]:
    # A class named through its module (`module.Class.method`) lies in the longest importable part.
    while module:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError, AttributeError):
            spec = None
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            yield Path(spec.origin).read_bytes()
            return
        module = module.rpartition(".")[0]
