"""A table of the report as CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from saliency_lab.report.drawing.notation import p_text

_MATHS = {
    "<": "<", ">": ">", "|": "|", "−": "-", "×": r"\times", "·": r"\cdot", "±": r"\pm",
    "→": r"\to", "←": r"\gets", "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "√": r"\surd",
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon",
    "λ": r"\lambda", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\varphi",
    "Δ": r"\Delta", "Σ": r"\Sigma", "Φ": r"\Phi", "∂": r"\partial",
}  # fmt: skip
"""Signs that LaTeX's text has not, or prints as others, as its formulas have them."""
_MARKS = str.maketrans(
    {"\\": r"\textbackslash{}", "–": "--", "~": r"\textasciitilde{}"}
    | {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"^": r"\textasciicircum{}"}
    | {sign: f"${name}$" for sign, name in _MATHS.items()}
)
"""What LaTeX reads in place of the letters that mean something else to it."""

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
"""What Markdown would take for the beginning of HTML."""

DECIMALS = {"passes": 1, "(ms)": 2, "(MiB)": 0, "seconds": 0}
"""Decimals of a column by a part of its name, where four would say more than is known."""


def decimals_of(column: object) -> int | None:
    """How many decimals the column's numbers are shown with; None leaves it to the form."""
    return next((count for part, count in DECIMALS.items() if part in str(column)), None)


def markdown_text(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown, numbers to four digits."""
    cells = [[_TAG.sub(r"\\<", cell) for cell in row] for row in _cells(table)]
    return "".join(f"{line}\n" for line in markdown_lines(list(table.columns), cells))


def markdown_lines(names: Sequence[object], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A table in GitHub's Markdown, line by line."""
    for line in (names, ["---"] * len(names), *rows):
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |"


def latex_text(table: pd.DataFrame) -> str:
    """The table as LaTeX for the booktabs package."""
    numeric = [pd.api.types.is_numeric_dtype(table[column]) for column in table.columns]
    rows = [[cell.translate(_MARKS) for cell in row] for row in _cells(table)]
    names = [str(name).translate(_MARKS) for name in table.columns]
    lines = [
        f"\\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
        "\\toprule",
        _latex_line(names),
        "\\midrule",
        *map(_latex_line, rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _latex_line(cells: Sequence[str]) -> str:
    line = " & ".join(cells) + r" \\"
    # After the end of the line above, these would be read as its settings.
    return "{}" + line if line.startswith(("[", "*")) else line


def csv_text(table: pd.DataFrame) -> str:
    """The table as CSV with every digit."""
    return table.to_csv(index=False, lineterminator="\n")


def _cells(table: pd.DataFrame) -> list[list[str]]:
    return [
        [_cell(value, column) for value, column in zip(row, table.columns, strict=True)]
        for row in table.itertuples(index=False)
    ]


def _cell(value: object, column: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if not isinstance(value, float):
        return " ".join(str(value).split())
    if str(column).partition(" ")[0] == "p":
        # Four decimals of a small p would say that it is 0.
        return p_text(value)
    decimals = decimals_of(column)
    return f"{value:.{4 if decimals is None else decimals}f}"
