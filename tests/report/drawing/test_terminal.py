"""The closing table of a task."""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path

import pytest

from saliency_lab.report.drawing.terminal import print_table

COLUMNS = ("method", "area", "interval", "images")
ROWS = [("original", 0.25, "[0.20, 0.30]", 1000), ("active", None, "[0.10, 0.12]", 20)]


def test_piped_output_is_aligned_text_without_escape_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_table("Areas", COLUMNS, ROWS, wrote=Path("outputs/run"))
    out = capsys.readouterr().out
    assert out == (
        "Areas\n"
        "method      area  interval      images\n"
        "--------  ------  ------------  ------\n"
        "original  0.2500  [0.20, 0.30]    1000\n"
        "active         –  [0.10, 0.12]      20\n"
        "wrote outputs/run\n"
    )


def test_a_terminal_gets_a_rich_table_with_its_brackets_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        print_table("Areas", COLUMNS, ROWS, wrote=Path("outputs/run"), stream=terminal)
        shown = _read_until(reader, "wrote outputs/run")
    os.close(reader)
    assert "\x1b[" in shown
    assert "[0.20, 0.30]" in shown


def _read_until(reader: int, text: str) -> str:
    shown = ""
    while text not in shown:
        shown += os.read(reader, 65536).decode()
    return shown


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected rows of 4 cells"):
        print_table("Areas", COLUMNS, [("original",)], stream=io.StringIO())


def test_plain_printing_needs_no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    stream = io.StringIO()
    print_table("Empty", ("name",), [], stream=stream)
    assert stream.getvalue() == "Empty\nname\n----\n"
