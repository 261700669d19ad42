"""Sweeps and jobs that end while others end in the same folders."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from saliency_lab.cli import roots, sweep
from saliency_lab.cli.logs import close_logs, configure_logging
from saliency_lab.runs.directory import remove_empty


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


@pytest.mark.parametrize("there", [True, False])
def test_what_was_refused_removes_an_output_root_only_if_it_made_it(
    tmp_path: Path, there: bool
) -> None:
    """A folder of the user's stays, however empty it is."""
    root = tmp_path / "outputs"
    if there:
        root.mkdir()
    roots.meet(root)
    job = root / "train" / "cifar10" / "run"
    job.mkdir(parents=True)
    remove_empty(job, roots.kept(root))
    assert root.exists() == there
    assert tmp_path.exists()
    assert roots.kept(tmp_path / "never met") == tmp_path / "never met"


def test_a_line_reaches_the_runs_file_though_another_job_has_removed_the_folder(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "evaluate" / "run"
    try:
        configure_logging(folder, "evaluate")
        folder.rmdir()
        logging.getLogger("saliency_lab").error("refused")
    finally:
        close_logs()
    assert "refused" in (folder / "evaluate.log").read_text()
