"""The lower bounds of pyproject.toml as constraints: `python -m tests.packaging.lowest`.

Of the dependencies proper: the tools of `dev` do not decide what a user runs.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def lowest(requirement: str) -> str:
    """ "torch>=2.11" as "torch==2.11"; the lowest that is named, other conditions left out."""
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(,.*)?", requirement)
    if found is None:
        raise ValueError(f"Expected NAME>=VERSION, but got {requirement!r}")
    return f"{found[1]}=={found[2]}"


def bounds() -> list[str]:
    """One line for each dependency."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return [lowest(requirement) for requirement in project["dependencies"]]


if __name__ == "__main__":
    print("\n".join(bounds()))
