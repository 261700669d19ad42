"""Which output roots a command found and which it made: a refused one leaves neither more nor less.

Hydra makes a job's directory, and the folders above it, before the job can look.
"""

from __future__ import annotations

from pathlib import Path

_found: dict[Path, bool] = {}


def meet(output_root: str | Path) -> None:
    """Note whether an output root is there, the first time that this process asks."""
    place = Path(output_root).absolute()
    _found.setdefault(place, place.exists())


def kept(output_root: str | Path) -> Path:
    """The lowest folder that stays where everything below it is empty.

    That is the output root where it was there before this process, the folder above it otherwise.
    """
    place = Path(output_root).absolute()
    return place if _found.get(place, True) else place.parent
