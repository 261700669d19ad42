"""Versions: one place for the program's own, a lower bound for every dependency."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import saliency_lab
from tests.packaging.lowest import bounds, lowest

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "saliency_lab/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", saliency_lab.__version__)
    assert f"[{saliency_lab.__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_every_dependency_has_a_lower_bound_that_the_exact_versions_keep() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    exact = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    extras = PROJECT["project"]["optional-dependencies"].values()
    for requirement in [*PROJECT["project"]["dependencies"], *(r for e in extras for r in e)]:
        name, _, least = lowest(requirement.replace("[python]", "")).lower().partition("==")
        assert name in exact, name
        assert _number(exact[name]) >= _number(least), name


def test_constraints_name_no_place() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    assert not re.search(r"://|--|@|/", text)


def test_lower_bounds() -> None:
    assert lowest("torch>=2.11") == "torch==2.11"
    assert lowest("pytorch-lightning>=2.6,!=2.6.2") == "pytorch-lightning==2.6"
    assert len(bounds()) == len(PROJECT["project"]["dependencies"])


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("b")[0]))
