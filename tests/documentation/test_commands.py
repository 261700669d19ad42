"""Commands and snippets of the pages, run on the embedded data.

A page marks what is run by a comment above the block, `<!-- run: GROUP -->`, and a file that a
block shows by `<!-- file: PATH -->`. Blocks of a page are run in its order, with less work than a
reader's: fewer images, one epoch, a small share of what is measured.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.cli.older_words import renamed
from saliency_lab.cli.words import TASKS
from saliency_lab.tasks.runs import KEYS

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
MARKED = re.compile(r"<!-- (run|file): (\S+) -->\n+```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(
    r"^(?:PYTHONPATH=\. )?(?:python -m saliency_lab|saliency-lab) (\w.*)$", re.MULTILINE
)
PAGES = sorted(
    page
    for page in [CHECKOUT / "README.md", *DOCS.rglob("*.md")]
    if MARKED.search(page.read_text(encoding="utf-8"))
)
# What makes a command quick, by its task; the reader's own numbers are replaced by these.
QUICK = {
    "train": {"data.train_images": "60", "data.test_images": "20", "trainer.max_epochs": "1"},
    "evaluate": {"data.limit": "10", "resamples": "20"},
    "compare": {"block_size": "10", "data.limit": "20"},
    "explain": {},
}
ALWAYS = {"logger": "none", "trainer.threads": "1"}
# A reader's own images, which are trained on as the page says.
OWN = {"data=folder", "data=listed"}


@dataclass(frozen=True)
class Block:
    """A marked block: what is done with it, its group or path, its text."""

    kind: str
    name: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in MARKED.findall(page.read_text(encoding="utf-8"))]


def commands(text: str) -> list[list[str]]:
    """The words of each command, lines joined, environment and program left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words[:3] == ["python", "-m", "saliency_lab"]:
            words = words[3:]
        elif words[:1] == ["saliency-lab"]:
            words = words[1:]
        elif words:
            raise ValueError(f"Expected a command of this program, but got {line!r}")
        if words:
            found.append(words)
    return found


def quick(words: list[str]) -> list[str]:
    """The command with less to do; what says which run is meant stays as it is."""
    task, *rest = words
    if task not in QUICK:
        return words
    wanted = {**QUICK[task], **ALWAYS}
    named = {word.partition("=")[0] for word in rest}
    if task == "train" and "data" in named:
        # Another data set has as many images as there are; it is small already.
        wanted = {key: value for key, value in wanted.items() if not key.startswith("data.")}
    kept = [word for word in rest if word.partition("=")[0] not in wanted]
    return [task, *kept, *(f"{key}={value}" for key, value in wanted.items())]


def _pets(folder: Path) -> None:
    """The tree of class folders of the page on data, and the lists of its files."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        lines = []
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
                lines.append(f"{split}/{name}/{number}.png,{name}\n")
        (folder / f"{split}.csv").write_text("".join(lines))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the images that the pages speak of, where modules are found."""
    _pets(tmp_path / "pets")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def trained(command, place: Path) -> Path:
    """The training that the pages begin with, made as quickly as can be."""
    outcome = command(*quick(["train"]))
    assert outcome.code == 0, outcome.err
    (found,) = (place / "outputs/train/shapes/basic_cnn").iterdir()
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_what_a_page_shows_works(page: Path, workplace: Path, command) -> None:
    training: Path | None = None
    for block in blocks(page):
        if block.kind == "file":
            path = workplace / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), _given())
        else:
            for words in commands(block.text):
                if words[0] == "train" and OWN.isdisjoint(words):
                    training = trained(command, workplace)
                    continue
                if words[0] in ("evaluate", "explain", "compare"):
                    training = training or trained(command, workplace)
                    words = _about(words, training)
                outcome = command(*quick(words))
                assert outcome.code == 0, f"{' '.join(words)}\n{outcome.err}"
    for module in ("my_methods", "my_evaluators", "my_data"):
        sys.modules.pop(module, None)


def _given() -> dict[str, object]:
    """What a snippet of Python may take as given: a model and images for it."""
    import torch

    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    model = torch.nn.Sequential(*layers, torch.nn.Linear(144, 5)).eval()
    return {"__name__": "page", "model": model, "images": torch.rand(3, 3, 8, 8)}


def _about(words: list[str], training: Path) -> list[str]:
    """The command about the quick training instead of the reader's."""
    free = ("run=", "trainer.max_epochs=", "ckpt=", "model=", "data=", "data.root=", "optimizer")
    return [*(word for word in words if not word.startswith(free)), f"run={training}"]


def test_every_command_of_the_pages_is_one_of_the_program() -> None:
    """Those that are not run, too: the task, the keys and the choices that they name exist."""
    wrong = []
    for page in [CHECKOUT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in SHOWN.findall(text):
            task, *rest = renamed(shlex.split(line.replace("…", ""), comments=True))
            if task not in TASKS:
                wrong.append(f"{page.name}: {line}")
            for word in rest:
                key, equals, value = word.partition("=")
                group = CHECKOUT / "conf" / key
                if task == "runs" and key not in KEYS:
                    wrong.append(f"{page.name}: {line}: {key}")
                elif task != "runs" and equals and group.is_dir() and not _choices(group, value):
                    wrong.append(f"{page.name}: {line}: {word}")
    assert not wrong


def _choices(group: Path, value: str) -> bool:
    names = {path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")}
    # Names of a reader's own, as the pages on extending use them.
    names |= {"none", "null", "listed", "brightness", "sharpness"}
    return value.startswith("glob(") or set(value.strip("[]").split(",")) <= names
