"""Figures drawn and saved, here or by processes of their own."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from saliency_lab.data.cache import usable_cores
from saliency_lab.report.drawing.figures import figure_bytes
from saliency_lab.runs.files import atomic_path

log = logging.getLogger(__name__)

Wanted = tuple[Callable[[], Figure], Sequence[Path]]
"""What draws a figure, and the files that it goes to."""

WORTH_IT = 4
"""Fewer figures than this are drawn sooner than processes have started."""
_MOST_PROCESSES = 8


def save_figure(draw: Callable[[], Figure], paths: Sequence[Path]) -> None:
    """Draw a figure and write its files, each in the form of its suffix.

    Raises:
        UserError: see `runs.files.atomic_path`.
    """
    figure = draw()
    for path in paths:
        with atomic_path(path) as temporary:
            temporary.write_bytes(figure_bytes(figure, path.suffix[1:]))


def saved(wanted: Sequence[Wanted]) -> Iterator[None]:
    """Draw the figures here, one after the other."""
    for draw, paths in wanted:
        save_figure(draw, paths)
        yield


@contextmanager
def saved_apart(wanted: Iterable[Wanted], processes: int | None = None) -> Iterator[Iterator[None]]:
    """Draw the figures in processes, which begin at once; few, or with one core, here and later.

    Args:
        wanted: drawings, each taken up as soon as it is there; those that cannot be pickled are
            made here, at the end.
        processes: how many at most; None for one on each core, but not more than are worth it.

    Yields:
        An iterator with an item for each figure as it is finished, to be exhausted.
    """
    count = processes or min(usable_cores(), _MOST_PROCESSES)
    pool: ProcessPoolExecutor | None = None
    futures: dict[Future[None], Wanted] = {}
    waiting: list[Wanted] = []
    here: list[Wanted] = []
    try:
        for one in wanted:
            (waiting if count > 1 and _can_travel(one) else here).append(one)
            if pool is None and len(waiting) >= WORTH_IT:
                # Spawned: a fork of a process with threads (torch, wandb) may never wake up.
                spawned = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(count, mp_context=spawned)
            if pool is not None:
                futures |= {pool.submit(save_figure, *each): each for each in waiting}
                waiting = []
        yield itertools.chain(_finished(futures), saved([*waiting, *here]))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _finished(futures: dict[Future[None], Wanted]) -> Iterator[None]:
    for future in as_completed(futures):
        try:
            future.result()
        except BrokenProcessPool as error:
            # Whatever the matter was there, an error of the figure's own comes up here again.
            log.info("drawing a figure here, as another process could not: %s", error)
            save_figure(*futures[future])
        yield


def _can_travel(wanted: Wanted) -> bool:
    """Whether another process can be told of a drawing."""
    try:
        pickle.dumps(wanted)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
