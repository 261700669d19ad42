"""Comparisons that an earlier report made, by the content of what they compare."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

import saliency_lab
from saliency_lab.evaluation.panel import votes
from saliency_lab.evaluation.rows import agreement, intervals, significance
from saliency_lab.evaluation.rows.intervals import Floats
from saliency_lab.evaluation.rows.significance import PairedDifference, paired_difference
from saliency_lab.report.comparing.maps import Panel
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
        self._inner: list[str] = []
        self._files: dict[Path, str] = {}

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
        named = json.dumps([function.__qualname__, str(path.resolve()), *_marks(path)]).encode()
        text = _text(function.__module__)
        return self._found(_digest(b"file", named, text), lambda: function(path))

    def of_panel(self, function: Callable[..., Any], panel: Panel, *settings: Any) -> Any:
        """What `function(panel, *settings)` says, as JSON has it.

        It is found again while the panel's maps, the files of its runs, the settings and the
        program are the same. Where an evaluator from elsewhere says how it is shown, nothing is
        kept: its module may ask others that nobody here knows of.
        """
        return self._of_panels(function, [panel], settings, lambda: function(panel, *settings))

    def within(self, function: Callable[[Panel, Known], Any], panel: Panel) -> Any:
        """As `of_panel`, of a function that asks what is known itself: `function(panel, known)`.

        While it need not be asked again, what it has asked for stays known.
        """
        return self._of_panels(function, [panel], (), lambda: function(panel, self))

    def within_all(
        self, function: Callable[[Sequence[Panel], Known], Any], panels: Sequence[Panel]
    ) -> Any:
        """As `within`, of a function of several panels: `function(panels, known)`."""
        return self._of_panels(function, panels, (), lambda: function(panels, self))

    def _of_panels(
        self,
        function: Callable[..., Any],
        panels: Sequence[Panel],
        settings: Sequence[Any],
        compute: Callable[[], Any],
    ) -> Any:
        for panel in panels:
            sections = panel.found.sections
            if sections is not None and not sections.startswith(f"{saliency_lab.__name__}."):
                return compute()
        named = f"{function.__module__}.{function.__qualname__} {settings!r}".encode()
        contents = [self._content(panel) for panel in panels]
        key = _digest(b"panel", named, _whole_program(), *contents)
        outer, self._inner = self._inner, []
        # By way of JSON the first time, too, so that a page is the same whenever it is made.
        found = self._found(
            key, lambda: {"value": json.loads(json.dumps(compute())), "asked": self._inner}
        )
        for inner in found["asked"]:
            if inner not in self._asked and inner in self._before:
                self._asked[inner] = self._before[inner]
        self._inner = [*outer, key, *found["asked"]]
        return found["value"]

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
        self._inner.append(key)
        return self._asked[key]

    def _content(self, panel: Panel) -> bytes:
        """What a panel shows and by which names; its numbers follow from the files of its runs."""
        maps = [(one.key, one.method, one.view, one.style, one.run.name) for one in panel.maps]
        parts = [(run.name, *names) for run, *names in panel.parts]
        runs = [(run.name, run.label, run.path.resolve()) for run in panel.runs]
        marks = [self._marks_below(run.path) for run in panel.runs]
        held = (panel.slug, panel.title, panel.curves_over, panel.key_of)
        return repr((held, maps, parts, runs, marks)).encode()

    def _marks_below(self, folder: Path) -> str:
        """A digest of the marks of a run's files, taken once: its evaluators share them."""
        if folder not in self._files:
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            marks = repr([(str(file), _marks(file)) for file in files])
            self._files[folder] = hashlib.blake2b(marks.encode(), digest_size=16).hexdigest()
        return self._files[folder]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _marks(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


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
    for module in (intervals, significance, votes, agreement):
        digest.update(_text(module.__name__))
    digest.update(f"{np.__version__} {scipy.__version__} {pd.__version__}".encode())
    return digest.digest()


@cache
def _whole_program() -> bytes:
    """All that may take part in a page: the text of the package, and what it draws with."""
    digest = hashlib.blake2b()
    package = Path(saliency_lab.__path__[0])
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}:".encode() + file.read_bytes())
    digest.update(f"{version('matplotlib')} {version('pillow')}".encode())
    return digest.digest()
