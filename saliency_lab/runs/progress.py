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
            progress.update(task, completed=done, rate=f"{rate_text(rate)} {unit}/s")


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
            left = clock_text((total - done) / rate)
            counted = f"{done:,} of {total:,} {unit}"
            _log.info("%s: %s, %s/s, %s left", title, counted, rate_text(rate), left)


def rate_text(items: float) -> str:
    """Whole items a second from ten on, two digits below: slow work takes many seconds for one."""
    return f"{items:,.0f}" if items >= 10 else f"{items:.2g}"


def clock_text(seconds: float) -> str:
    """3:20 or 2:03:20."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
