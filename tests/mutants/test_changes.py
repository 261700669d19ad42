"""The list of wrong changes still fits the code; whether tests notice them is `make mutants`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .changes import CHECKOUT, Change, all_changes

CHANGES = all_changes()


@pytest.mark.parametrize("change", CHANGES, ids=[f"{c.area}: {c.what}" for c in CHANGES])
def test_a_change_can_be_made(change: Change) -> None:
    assert change.fault(CHECKOUT) is None
    assert change.tests
    before = (CHECKOUT / change.file).read_text(encoding="utf-8")
    after = change.made_in(before)
    # Something is computed otherwise: not a comment, a docstring or white space.
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))


def test_there_are_many_and_none_twice() -> None:
    assert len(CHANGES) >= 60
    assert len({(c.file, c.old, c.new) for c in CHANGES}) == len(CHANGES)
    assert len({(c.area, c.what) for c in CHANGES}) == len(CHANGES)


def test_what_no_longer_fits_is_said(tmp_path: Path) -> None:
    change = Change("area", "what", "code.py", "a + b", "a - b", ("tests/test_code.py",))
    assert change.fault(tmp_path) == "code.py is not there"
    (tmp_path / "code.py").write_text("a + b, a + b")
    assert change.fault(tmp_path) == "code.py holds the old text 2 times instead of once"
    (tmp_path / "code.py").write_text("print(a + b)")
    assert change.fault(tmp_path) == "tests/test_code.py is not there"
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_code.py").touch()
    assert change.fault(tmp_path) is None
    assert change.made_in("print(a + b)") == "print(a - b)"
