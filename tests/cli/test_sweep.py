"""The end of a sweep, while another one ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from saliency_lab.cli import sweep


def test_another_sweep_may_remove_the_common_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = sweep.Sweep.of(["-m"])
    assert ended is not None
    directory = Path(sweep.sweep_directory(str(tmp_path)))
    directory.mkdir(parents=True)
    ended.succeeded = True
    rmtree = shutil.rmtree
    monkeypatch.setattr(sweep.shutil, "rmtree", lambda path: rmtree(path.parent))
    ended.close()
    assert not directory.parent.exists()
