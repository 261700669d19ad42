"""What all tests share: no network, no prompts, a cache and a working directory of their own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", MPLBACKEND="Agg", COLUMNS="200"
)


@dataclass(frozen=True)
class Outcome:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images, shared by the tests of one process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(
    tmp_path: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """The command line in this process: words to an outcome; it runs in `tmp_path`."""
    from saliency_lab.cli.command import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(cache_dir))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    root = logging.getLogger()
    before = root.level, list(root.handlers)

    def outcome(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["saliency-lab", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            run()
        printed = capfd.readouterr()
        code = stop.value.code
        return Outcome(code if isinstance(code, int) else 0, printed.out, printed.err)

    yield outcome
    root.setLevel(before[0])
    root.handlers[:] = before[1]
