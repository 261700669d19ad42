"""Which run directories lie below a folder, and which of them are asked for by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from saliency_lab.errors import UserError

_MARKERS = ("config.yaml", "summary.json", "error.txt")
_TASKS = ("train", "evaluate", "compare")
# Trainings on altered images belong to the evaluation that asked for them.
_NO_RUNS = {"retraining", "wandb"}


def run_directories(outputs: Path) -> Iterator[Path]:
    """The directories of runs of any state; what a run itself has trained is not among them."""
    seen = set()
    for task in _TASKS:
        for marker in _MARKERS:
            for file in (outputs / task).rglob(marker):
                parts = file.relative_to(outputs).parts
                hidden = any(part.startswith(".") for part in parts)
                if not hidden and not _NO_RUNS & set(parts) and file.parent not in seen:
                    seen.add(file.parent)
                    yield file.parent


def chosen_directories(found: Sequence[Path], outputs: Path, runs: Sequence[str]) -> list[Path]:
    """Of the directories found those that directories or patterns inside `outputs` name.

    Raises:
        UserError: a name matches none.
    """
    chosen: list[Path] = []
    names = {path.relative_to(outputs).as_posix(): path for path in found}
    for run in runs:
        wanted = Path(run).expanduser()
        hits = [
            path
            for path in found
            if path == outputs / run
            or path.resolve() == wanted.resolve()
            or fnmatchcase(path.relative_to(outputs).as_posix(), run)
            or (outputs / run) in path.parents
        ]
        if not hits:
            raise _no_such_run(run, outputs, names)
        chosen += [path for path in hits if path not in chosen]
    return chosen


def _no_such_run(run: str, outputs: Path, names: Mapping[str, Path]) -> UserError:
    close = difflib.get_close_matches(run, list(names), n=3, cutoff=0.4) or sorted(names)[:1]
    return UserError(
        f"Expected `runs` to name runs or patterns of runs below '{outputs}', but '{run}' is none "
        f"of its {len(names)}; for example {', '.join(close)}"
    )
