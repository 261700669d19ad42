"""Pages without building them: links lead somewhere, every public name is documented and listed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

import saliency_lab
from saliency_lab.cli.words import TASKS

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
PAGES = sorted(
    path for path in [*CHECKOUT.glob("*.md"), *DOCS.rglob("*.md")] if "results" not in path.parts
)
# What `make docs` draws.
DRAWN = DOCS / "gallery"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
HOMES = saliency_lab._HOMES


def name(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and GitHub make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found.add(re.sub(r"[\s]+", "-", words))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        missing = not place.exists() and DRAWN not in place.parents
        known = anchors(place) if anchor and place.suffix == ".md" and not missing else {anchor}
        if missing or anchor not in known:
            dead.append(link)
    assert not dead


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.load(
        re.sub(r"!!python\S+", "", (CHECKOUT / "mkdocs.yml").read_text()), Loader=yaml.SafeLoader
    )["nav"]

    def pages(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        below = entry.values() if isinstance(entry, dict) else entry
        return set().union(*(pages(one) for one in below))  # type: ignore[union-attr]

    there = {p.relative_to(DOCS).as_posix() for p in PAGES if DOCS in p.parents}
    assert pages(menu) == there


def reference() -> set[str]:
    text = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    return set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


def test_every_public_name_is_in_the_reference() -> None:
    assert reference() == {f"{home}.{public}" for public, home in HOMES.items()}


@pytest.mark.parametrize("public", saliency_lab.__all__)
def test_every_public_name_says_what_it_is(public: str) -> None:
    path = CHECKOUT / (HOMES[public].replace(".", "/") + ".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for place, node in enumerate(body):
        if getattr(node, "name", None) == public:
            assert ast.get_docstring(node), public  # type: ignore[arg-type]
            return
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if public in [getattr(target, "id", None) for target in targets]:
            after = body[place + 1]
            assert isinstance(after, ast.Expr), public
            assert isinstance(after.value, ast.Constant), public
            return
    pytest.fail(f"{public} is not defined in {path}")


def test_every_task_is_explained() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    settings = (DOCS / "reference/commands.md").read_text()
    for task in TASKS:
        assert f"| `{task}` |" in readme, task
        assert f"## {task}\n" in settings, task
