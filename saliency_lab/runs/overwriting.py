"""What `overwrite=true` takes the place of waits until the new run is finished, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

LOCK, HOLDER = ".lock", ".holder.json"
_ASIDE = ".overwritten"
_SUMMARY = "summary.json"
# Of a run that begins; whatever else is a folder is work that a further start can go on with.
_NO_WORK = (_ASIDE, "wandb")


def is_waiting(directory: Path) -> bool:
    """Whether a finished run waits in the directory for the end of the one that replaces it."""
    return (directory / _ASIDE).is_dir()


def set_aside(directory: Path, *, finished: bool) -> None:
    """Empty a held run directory but for logs; a finished run is kept in a hidden folder of it."""
    if not finished or is_waiting(directory):
        clear(directory, but=_ASIDE)
        return
    aside = directory / _ASIDE
    aside.mkdir()
    # First, so that nothing that is cut short here passes for a finished run.
    (directory / _SUMMARY).rename(aside / _SUMMARY)
    for path in directory.iterdir():
        if path != aside and not stays(path):
            path.rename(aside / path.name)


def put_back(directory: Path) -> None:
    """Make the run that waits the directory's again, unless the new one has begun its work."""
    aside = directory / _ASIDE
    if any(path.is_dir() and path.name not in _NO_WORK for path in directory.iterdir()):
        return
    clear(directory, but=_ASIDE)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == _SUMMARY):
        path.rename(directory / path.name)
    aside.rmdir()


def let_go(directory: Path) -> None:
    """Delete the run that waited: the new one is finished."""
    if is_waiting(directory):
        shutil.rmtree(directory / _ASIDE)


def stays(path: Path) -> bool:
    """Whether a file of a run directory outlives its run."""
    return path.name in (LOCK, HOLDER) or path.suffix == ".log"


def clear(directory: Path, but: str = "") -> None:
    """Delete everything in a held run directory but logs, and one name."""
    for path in directory.iterdir():
        if stays(path) or path.name == but:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
