"""What a reproduction is about to do: what is there, what is missing, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

COLUMNS = ("column", "there", "missing", "about")


@dataclass(frozen=True)
class Planned:
    """One job of a sweep.

    Attributes:
        column: of the paper's table.
        kind: `train`, `test`, …
        seed: of the training.
        took: seconds that it took; None while it is missing.
        estimate: seconds from rates measured on this machine; None where nothing is known.
    """

    column: str
    kind: str
    seed: int
    took: float | None = None
    estimate: float | None = None
    there: bool = False


def plan_rows(jobs: Sequence[Planned]) -> list[list[object]]:
    """One row for each column and, where there are several, one for all: see `COLUMNS`.

    A missing job is taken to last as long as the same job of another seed did; only where there is
    none its own estimate counts.
    """
    names = list(dict.fromkeys(job.column for job in jobs))
    rows = [_row(name, [job for job in jobs if job.column == name], jobs) for name in names]
    if len(names) > 1:
        there = sum(job.there for job in jobs)
        left = [job for job in jobs if not job.there]
        rows.append(
            ["all", f"{there} jobs", f"{len(left)} jobs", duration_text(_times(left, jobs))]
        )
    return rows


def duration_text(seconds: Iterable[float | None]) -> str:
    """Their sum in words: "40 s", "12 min", "3.5 h"; with what is not known "at least"."""
    known = list(seconds)
    if not known:
        return "–"
    told = [value for value in known if value is not None]
    if not told:
        return "unknown"
    total = sum(told)
    text = (
        f"{total:.0f} s"
        if total < 60
        else f"{total / 60:.0f} min"
        if total < 5400
        else f"{total / 3600:.1f} h"
    )
    return text if len(told) == len(known) else f"at least {text}"


def _row(name: str, mine: Sequence[Planned], jobs: Sequence[Planned]) -> list[object]:
    left = [job for job in mine if not job.there]
    there = _kinds([job for job in mine if job.there], mine)
    return [name, there, _kinds(left, mine), duration_text(_times(left, jobs))]


def _times(left: Sequence[Planned], jobs: Sequence[Planned]) -> Iterator[float | None]:
    for job in left:
        took = [
            other.took
            for other in jobs
            if (other.column, other.kind) == (job.column, job.kind) and other.took is not None
        ]
        yield mean(took) if took else job.estimate


def _kinds(found: Sequence[Planned], mine: Sequence[Planned]) -> str:
    """The kinds of these jobs, with their seeds where some seed of the column is not among them."""
    seeds = {job.seed for job in mine}
    words = []
    for kind in dict.fromkeys(job.kind for job in found):
        of_kind = {job.seed for job in found if job.kind == kind}
        named = "" if of_kind == seeds else f" ({', '.join(map(str, sorted(of_kind)))})"
        words.append(kind + named)
    return ", ".join(words) or "–"
