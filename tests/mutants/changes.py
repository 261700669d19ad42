"""The list of changes, one TOML file per area, and how one is made."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).resolve().parent / "areas"


@dataclass(frozen=True)
class Change:
    """One small wrong change."""

    area: str
    what: str
    """What is wrong with it, in words."""
    file: str
    """Relative to the checkout."""
    old: str
    """Stands exactly once in the file."""
    new: str
    tests: tuple[str, ...]
    """Files or node ids, one of which must fail."""
    equivalent: str = ""
    """Why no test can tell it from the code, where that is so."""

    def fault(self, root: Path) -> str | None:
        """Why the change cannot be made in the checkout at `root`; None if it can."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file} is not there"
        found = path.read_text(encoding="utf-8").count(self.old)
        if found != 1:
            return f"{self.file} holds the old text {found} times instead of once"
        missing = [test for test in self.tests if not (root / test.split("::")[0]).exists()]
        return f"{missing[0]} is not there" if missing else None

    def made_in(self, text: str) -> str:
        """The file's text with the change."""
        return text.replace(self.old, self.new)


def all_changes() -> list[Change]:
    """Every change of every area, in the order of the files."""
    found = []
    for path in sorted(LISTS.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["change"]:
            tests = entry.pop("tests")
            found.append(Change(area=path.stem, tests=tuple(tests), **entry))
    return found
