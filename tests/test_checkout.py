"""The code under test is the code beside the tests, in this process and in those it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import saliency_lab

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "saliency_lab" / "__init__.py"


def test_this_process() -> None:
    assert Path(saliency_lab.__file__) == PACKAGE


def test_a_process_that_a_test_starts_anywhere(tmp_path: Path) -> None:
    code = "import saliency_lab; print(saliency_lab.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == PACKAGE


@pytest.mark.parametrize("kind", ["module", "console script"])
def test_the_command_line_and_what_it_starts(
    kind: str, tmp_path: Path, start, console_script: Path
) -> None:
    chosen = {"program": (str(console_script),)} if kind == "console script" else {}
    run = start("--version", **chosen)
    assert run.end() == 0, run.read()
    assert run.read().count(".") == 2
    # What `start` looks at after every test.
    notes = [path.read_text() for path in (tmp_path / "notes").iterdir()]
    assert notes == [str(PACKAGE)]
