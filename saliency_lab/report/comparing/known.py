"""Comparisons that an earlier report made, by the content of what they compare."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from saliency_lab.evaluation.panel import votes
from saliency_lab.evaluation.rows import agreement, statistics
from saliency_lab.evaluation.rows.statistics import Floats, PairedDifference, paired_difference
from saliency_lab.runs.files import write_text


class Known:
    """Results of comparisons, kept in a file from one report to the next.

    A result is found again if its function, its numbers and the program are the same. What a report
    does not ask for is forgotten when it is saved.

    Args:
        path: of the file; None keeps nothing. A file that cannot be read counts as empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._before: dict[str, Any] = {} if path is None else _read(path)
        self._asked: dict[str, Any] = {}

    def difference(self, a: Floats, b: Floats) -> PairedDifference:
        """`paired_difference` of two columns of numbers, (N,)."""
        found = self._found(
            _digest(b"difference", a.tobytes(), b.tobytes()),
            lambda: asdict(paired_difference(a, b)),
        )
        return PairedDifference(**found)

    def table(
        self, function: Callable[..., list[dict[str, Any]]], scores: pd.DataFrame, **settings: Any
    ) -> list[dict[str, Any]]:
        """What a function of `evaluation.panel.votes` says of these scores."""
        rows = pd.util.hash_pandas_object(scores, index=False).to_numpy()
        named = json.dumps([function.__name__, list(scores.columns), settings]).encode()
        found: list[dict[str, Any]] = self._found(
            _digest(named, rows.tobytes()), lambda: function(scores, **settings)
        )
        return found

    def result(self, function: Callable[..., Any], *arrays: NDArray[np.float64]) -> Any:
        """What a function of numbers alone gives, as JSON has it: a number, None, or lists.

        It is found again while its arrays and the text of its module are the same.
        """
        parts = [part for each in arrays for part in (repr(each.shape).encode(), each.tobytes())]
        named = f"{function.__module__}.{function.__qualname__}".encode()
        text = _text(function.__module__)
        return self._found(_digest(named, text, *parts), lambda: function(*arrays))

    def of_file(self, function: Callable[[Path], Any], path: Path) -> Any:
        """What a function reads from a file, as JSON has it; again when the file was written anew.

        A file is the same while its place, size, node and times of writing and of change are: no
        program can set the last.
        """
        stat = path.stat()
        marks = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
        named = json.dumps([function.__qualname__, str(path.resolve()), *marks]).encode()
        text = _text(function.__module__)
        return self._found(_digest(b"file", named, text), lambda: function(path))

    def save(self) -> None:
        """Write what was asked for.

        Raises:
            UserError: see `runs.files.atomic_path`.
        """
        if self._path is not None and self._asked != self._before:
            write_text(self._path, json.dumps(self._asked, separators=(",", ":")))

    def _found(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._asked:
            self._asked[key] = self._before[key] if key in self._before else compute()
        return self._asked[key]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(_program(), digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


@cache
def _text(module: str) -> bytes:
    return inspect.getsource(sys.modules[module]).encode()


@cache
def _program() -> bytes:
    """What compares: the text of the modules, and the versions of what they build on."""
    digest = hashlib.blake2b()
    for module in (statistics, votes, agreement):
        digest.update(_text(module.__name__))
    digest.update(f"{np.__version__} {scipy.__version__} {pd.__version__}".encode())
    return digest.digest()
