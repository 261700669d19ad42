"""Make each change in a copy of the checkout, run the tests that must notice it, tell the score.

    python -m tests.mutants [--area NAME …] [--like TEXT] [--workers N] [--seconds N]

The working tree is never touched. Exit code 1 if a change survives that is not listed as
equivalent.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.mutants.changes import CHECKOUT, Change, all_changes
from tests.mutants.trial import PASSED, Trial, prepare


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.mutants")
    words.add_argument("--area", action="append", help="only this area; may be repeated")
    words.add_argument("--like", default="", help="only changes whose words or file hold this")
    words.add_argument("--workers", type=int, default=1, help="copies that work side by side")
    words.add_argument("--seconds", type=float, default=240, help="limit of one change's tests")
    words.add_argument("--trust", action="store_true", help="do not run the tests unchanged first")
    chosen = words.parse_args()
    changes = [
        change
        for change in all_changes()
        if (not chosen.area or change.area in chosen.area)
        and chosen.like in f"{change.what} {change.file}"
    ]
    for change in changes:
        if fault := change.fault(CHECKOUT):
            print(f"{change.area}: {change.what}: {fault}")
            return 2
    prepare()
    began = time.monotonic()
    if not chosen.trust:
        _require_passing({test for change in changes for test in change.tests})
    noticed = _noticed(changes, max(1, chosen.workers), chosen.seconds)
    print(_told(changes, noticed))
    print(f"{len(changes)} changes in {time.monotonic() - began:.0f} s")
    survivors = [c for c, seen in zip(changes, noticed, strict=True) if not seen]
    return int(any(not change.equivalent for change in survivors))


def _require_passing(tests: Iterable[str]) -> None:
    """Nothing, or the end: tests that fail without any change would notice everything."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trial = Trial(Path(folder) / "unchanged", 3600)
        if trial.code(sorted(tests)) != PASSED:
            sys.exit(f"These tests fail without any change:\n{trial.said()}")


def _noticed(changes: Sequence[Change], workers: int, seconds: float) -> list[bool]:
    """Whether a test fails, change by change; each worker has a copy and takes its turn."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        answers = context.SimpleQueue()
        running = [
            context.Process(
                target=_work, args=(Path(folder) / str(n), changes, (n, workers), seconds, answers)
            )
            for n in range(workers)
        ]
        for process in running:
            process.start()
        found: dict[int, bool] = {}
        while len(found) < len(changes):
            number, seen = answers.get()
            if isinstance(seen, str):
                for process in running:
                    process.terminate()
                sys.exit(seen)
            found[number] = seen
            change = changes[number]
            word = "noticed" if seen else "equivalent" if change.equivalent else "SURVIVED"
            print(f"{len(found):4d}/{len(changes)} {word:10s} {change.area}: {change.what}")
            sys.stdout.flush()
        for process in running:
            process.join()
    return [found[number] for number in range(len(changes))]


def _work(folder, changes, share, seconds, answers) -> None:
    first, step = share
    trial = Trial(folder, seconds)
    for number in range(first, len(changes), step):
        try:
            answers.put((number, trial.noticed(changes[number])))
        except RuntimeError as error:
            answers.put((number, str(error)))
            return


def _told(changes: Sequence[Change], noticed: Iterable[bool]) -> str:
    """The score by area, and the survivors."""
    pairs = list(zip(changes, noticed, strict=True))
    lines = ["", f"{'area':14s} noticed  of  equivalent"]
    for area, group in itertools.groupby(pairs, key=lambda pair: pair[0].area):
        lines.append(_row(area, list(group)))
    lines.append(_row("all", pairs))
    for change, seen in pairs:
        if not seen:
            why = f"equivalent: {change.equivalent}" if change.equivalent else "SURVIVED"
            lines.append(f"{change.area}: {change.what} ({change.file}): {why}")
    return "\n".join(lines)


def _row(name: str, pairs: Sequence[tuple[Change, bool]]) -> str:
    same = sum(bool(change.equivalent) and not seen for change, seen in pairs)
    seen = sum(seen for _, seen in pairs)
    counted = len(pairs) - same
    return f"{name:14s} {seen:7d} {counted:3d} {same:11d}  {seen / max(counted, 1):.0%}"


if __name__ == "__main__":
    sys.exit(main())
