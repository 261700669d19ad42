"""Progress of long work: a bar with rate and time left on a terminal, plain lines otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_SECONDS_BETWEEN_LINES = 10.0
_log = logging.getLogger(__name__)


def shown_progress(
    items: Iterable[_Item], *, total: int, title: str, unit: str, count: Callable[[_Item], int]
) -> Iterator[_Item]:
    """The same items; `count` says by how much each brings the work forward to `total`."""
    if sys.stderr.isatty():
        yield from _with_bar(items, total, title, unit, count)
    else:
        yield from _with_lines(items, total, title, unit, count)


def _with_bar(
    items: Iterable[_Item], total: int, title: str, unit: str, count: Callable[[_Item], int]
) -> Iterator[_Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, rate="")
        start, done = time.monotonic(), 0
        for item in items:
            yield item
            done += count(item)
            rate = done / max(time.monotonic() - start, 1e-6)
            progress.update(task, completed=done, rate=f"{rate:,.0f} {unit}/s")


def _with_lines(
    items: Iterable[_Item], total: int, title: str, unit: str, count: Callable[[_Item], int]
) -> Iterator[_Item]:
    start = spoken = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += count(item)
        now = time.monotonic()
        if now - spoken >= _SECONDS_BETWEEN_LINES or done == total:
            spoken, rate = now, done / max(now - start, 1e-6)
            left = (total - done) / rate
            _log.info(
                "%s: %s of %s %s, %.0f/s, %.0f s left",
                title,
                f"{done:,}",
                f"{total:,}",
                unit,
                rate,
                left,
            )
