"""A file that processes have open, and that none may remove meanwhile."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which refuses to remove a file that is open
    fcntl = None  # type: ignore[assignment]


def hold_together(path: Path, owner: object) -> None:
    """Have the file open for as long as its owner lives; any number of owners may.

    Raises:
        OSError: it cannot be opened.
    """
    if fcntl is None:
        return
    file = os.open(path, os.O_RDONLY)
    weakref.finalize(owner, os.close, file)
    # Some network file systems know no such locks: there nobody is kept from anything.
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)


@contextlib.contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Whether nobody else has the file while the block runs; also true where there is none.

    Where that cannot be known, because the file is someone else's or its file system has no locks,
    it is not.
    """
    if fcntl is None or not path.exists():
        yield True
        return
    with contextlib.ExitStack() as stack:
        try:
            # For writing: NFS gives an exclusive lock on nothing less.
            file = stack.enter_context(path.open("r+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
