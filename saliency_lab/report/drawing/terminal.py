"""The short table that every task ends with: rich on a terminal, plain text everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    wrote: Path | None = None,
    stream: TextIO | None = None,
) -> None:
    """Print a table and, below it, the line "wrote PATH".

    Floats are shown with four digits, None as a dash; columns of numbers are aligned right. No
    escape code is written unless `stream` (default: standard output) is a terminal.

    Raises:
        ValueError: a row has not one cell per column.
    """
    stream = stream or sys.stdout
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"Expected rows of {len(columns)} cells, but got {list(row)}.")
    right = [_is_numeric([row[place] for row in rows]) for place in range(len(columns))]
    cells = [[_cell_text(value) for value in row] for row in rows]
    if stream.isatty():
        _print_rich(title, columns, cells, right, stream)
    else:
        print(plain_table(title, columns, cells, right), file=stream)
    if wrote is not None:
        # Never wrapped or highlighted: the path is there to be copied.
        print(f"wrote {wrote}", file=stream, flush=True)


def plain_table(
    title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> str:
    """The table as aligned text: title, header, rule, rows; no trailing spaces."""
    widths = [
        max([len(name), *(len(row[place]) for row in cells)]) for place, name in enumerate(columns)
    ]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if numeric else value.ljust(width)
            for value, width, numeric in zip(values, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([title, line(columns), rule, *(line(row) for row in cells)])


def _print_rich(
    title: str,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    stream: TextIO,
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD)
    for name, numeric in zip(columns, right, strict=True):
        table.add_column(Text(name), justify="right" if numeric else "left")
    for row in cells:
        # Text, not str: a value such as "[0.2, 0.3]" would be read as markup.
        table.add_row(*(Text(value) for value in row))
    Console(file=stream).print(table)


def _is_numeric(values: Sequence[object]) -> bool:
    seen = [value for value in values if value is not None]
    return bool(seen) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in seen
    )


def _cell_text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
