"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saliency_lab.errors import UserError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_NEARLY_FULL_BYTES = 1 << 20


# The longest name of a file, less what others put before and behind it.
_LONGEST_NAME = 150


def file_word(text: str) -> str:
    """A text as part of a file's name: small letters, digits and hyphens.

    One that would be too long for a file system ends with a digest of all of it.
    """
    word = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(word) <= _LONGEST_NAME:
        return word
    return f"{word[: _LONGEST_NAME - 11]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary sibling of `path` that becomes `path` when the block ends without an error.

    The sibling keeps the suffix (writers that go by it work) and starts with a dot, so patterns
    that begin with the file's name never match one that a killed process left behind. Missing
    folders are made. On an error the sibling is removed and an earlier `path` stays as it was.

    Raises:
        UserError: the disk is full or the place cannot be written; names `path`.
    """
    path = Path(path)
    temporary = path.with_name(
        f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.part{path.suffix}"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except (OSError, RuntimeError) as error:
        raised = writing_error(path, error)
        if raised is error:
            raise
        raise raised from error
    finally:
        # An unwritable folder has no sibling to remove: the first error is the one to show.
        if temporary.exists():
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all.

    Raises:
        UserError: see `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, as JSON has none.

    Raises:
        UserError: see `atomic_path`.
        ValueError: a number is not finite.
        TypeError: a value is of a type that JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def writing_error(path: Path, error: Exception) -> Exception:
    """The UserError for a full disk or an unwritable place, or `error` itself if it is neither."""
    code = getattr(error, "errno", None)
    # torch.save and numpy's tofile report a full disk without an error number.
    if code in _NO_SPACE or (code is None and _nearly_full(path.parent)):
        return UserError(
            f"No space left on the disk while writing {path}; free up space or choose another "
            "folder (files written earlier are intact)."
        )
    if code in _NOT_WRITABLE:
        reason = os.strerror(code) if code is not None else str(error)
        return UserError(f"Expected {path} to be writable, but got: {reason}.")
    return error


def _nearly_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _NEARLY_FULL_BYTES
    except OSError:
        return False


def _flush(path: Path) -> None:
    """Bring a file, or a folder's entries, to the disk before the next step relies on it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
