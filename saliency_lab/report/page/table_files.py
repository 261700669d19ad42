"""The report's tables as files: written in three forms, and removed once there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from saliency_lab.report.page.table_texts import csv_text, latex_text, markdown_text
from saliency_lab.runs.files import write_json, write_text

_FORMS = {"csv": csv_text, "md": markdown_text, "tex": latex_text}
_WRITTEN = ".written.json"


def write_tables(found: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write the tables that have rows as CSV, Markdown and LaTeX; returns their files.

    The names of what was written lie beside the files. Tables of an earlier report that are no
    more are removed, and other files, whatever they are called, are none of ours.

    Raises:
        UserError: see `runs.files.atomic_path`.
    """
    texts = {
        f"{name}.{suffix}": text_of(table)
        for name, table in found.items()
        if not table.empty
        for suffix, text_of in _FORMS.items()
    }
    for name in _written_before(folder) - texts.keys():
        (folder / name).unlink(missing_ok=True)
    # First the names: a report that is killed leaves no table behind that nobody knows of.
    write_json(folder / _WRITTEN, list(texts))
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _written_before(folder: Path) -> set[str]:
    try:
        return {Path(name).name for name in json.loads((folder / _WRITTEN).read_text("utf-8"))}
    except (FileNotFoundError, ValueError):
        return set()
