"""Pages without building them: links lead somewhere, every public name is documented and listed."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

import saliency_lab
from saliency_lab.cli.words import TASKS
from saliency_lab.config.schema import RunConfig
from saliency_lab.reproductions.llorente2023.form import departures

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
PAGES = sorted(
    path for path in [*CHECKOUT.glob("*.md"), *DOCS.rglob("*.md")] if "results" not in path.parts
)
# What `make docs` draws.
DRAWN = DOCS / "gallery"
# Parts of generated pages that lie in docs itself.
REMARKS = sorted((DOCS / "results").rglob("*-remarks.md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
MARKERS = re.compile(r"^(<!-- .* -->|::: .*|#+ .*)$")
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


def dead_links(page: Path, folder: Path) -> list[str]:
    """The links of a page that lead nowhere from this folder."""
    dead = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        place = (folder / target).resolve() if target else page
        missing = not place.exists() and DRAWN not in place.parents
        known = anchors(place) if anchor and place.suffix == ".md" and not missing else {anchor}
        if missing or anchor not in known:
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not dead_links(page, page.parent)


@pytest.mark.parametrize("page", REMARKS, ids=name)
def test_links_of_remarks_lead_somewhere_from_the_page_that_holds_them(page: Path) -> None:
    assert not dead_links(page, DOCS)


def test_remarks_are_no_pages_of_the_site() -> None:
    pathspec = pytest.importorskip("pathspec", reason="pathspec comes with hatchling")
    excluded = pathspec.GitIgnoreSpec.from_lines(str(site()["exclude_docs"]).splitlines())
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    remarks = {page.relative_to(DOCS).as_posix() for page in REMARKS}
    assert len({page.parent for page in REMARKS}) > 1  # in folders of different depth
    assert {page for page in there if excluded.match_file(page)} == remarks


@pytest.mark.parametrize("page", sorted(CHECKOUT.glob("*.md")), ids=name)
def test_pages_that_only_the_site_fills_are_not_linked_from_the_repository(page: Path) -> None:
    targets = [(page.parent / link.partition("#")[0]).resolve() for link in _links(page)]
    blank = [
        place.name
        for place in targets
        if place.suffix == ".md"
        and all(MARKERS.match(line) for line in place.read_text().splitlines() if line)
    ]
    assert not blank


def _links(page: Path) -> list[str]:
    found = LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:|#", link)]


def site() -> dict[str, object]:
    text = re.sub(r"!!python\S+", "", (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))
    return dict(yaml.load(text, Loader=yaml.SafeLoader))


def test_every_page_is_in_the_menu() -> None:
    menu = site()["nav"]

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


def test_settings_of_every_task_are_shown() -> None:
    text = (DOCS / "reference/commands.md").read_text(encoding="utf-8")
    block = text.partition("## Every task")[2].partition("```yaml\n")[2].partition("```")[0]
    own = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    assert yaml.safe_load(block) == {key: own[key] for key in own if key != "task"}


def test_every_evaluator_is_listed() -> None:
    names = {path.stem for path in (CHECKOUT / "conf/evaluator").glob("*.yaml")}
    text = (DOCS / "measures.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)`[^|]*\|", text, re.MULTILINE)
    assert sorted(listed) == sorted(names)


@pytest.mark.parametrize(
    "path", sorted((DOCS / "results").glob("*_*.json")), ids=lambda path: path.stem
)
def test_printed_commands_are_of_the_network_that_was_trained(path: Path) -> None:
    """An experiment's own settings may have changed since a column was published."""
    record = json.loads(path.read_text(encoding="utf-8"))
    page = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {record['title']}\n")[2].partition("\n## ")[0]
    printed = re.findall(r"^Commands:\n\n```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[-1]
    commands = printed.splitlines()
    assert len(commands) == len(record["commands"])
    older = set(departures(record)) - set(record["departures"])
    assert all(older <= set(command.split()) for command in commands)
