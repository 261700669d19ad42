from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from saliency_lab.errors import UserError
from saliency_lab.runs.directory import (
    begin,
    finish,
    held,
    is_finished,
    read_config,
    read_summary,
    remove_empty,
    require_same_run,
)
from saliency_lab.runs.processes import SWEEP

CONFIG = {
    "sources": {"model": "0123456789"},
    "task": "train",
    "seed": 3,
    "overwrite": False,
    "output_root": "outputs",
    "data": {"name": "shapes", "root": None, "workers": 0},
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.999]},
}


def test_a_run_begins_and_finishes(tmp_path):
    assert read_summary(tmp_path) == {}
    begin(tmp_path, CONFIG, overwrite=False, checkpoint="here")
    assert read_summary(tmp_path) == {"task": "train", "status": "running", "checkpoint": "here"}
    assert not is_finished(tmp_path)
    finish(tmp_path, {"task": "train", "accuracy": 0.5})
    assert is_finished(tmp_path)
    assert read_summary(tmp_path)["accuracy"] == 0.5
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["seed"] == 3
    assert environment["versions"]["torch"]
    assert environment["cores"] >= 1


def test_a_damaged_summary_is_no_finished_run(tmp_path):
    (tmp_path / "summary.json").write_text('{"status": "fini')
    assert read_summary(tmp_path) == {}
    assert not is_finished(tmp_path)


@pytest.mark.parametrize("text", [b"data: [1", b"- a list", b"", b"name: \xff\xfe"])
def test_a_damaged_configuration_is_none(tmp_path, text):
    assert read_config(tmp_path) == {}
    begin(tmp_path, CONFIG, overwrite=False)
    assert read_config(tmp_path) == CONFIG
    (tmp_path / "config.yaml").write_bytes(text)
    assert read_config(tmp_path) == {}
    require_same_run(tmp_path, CONFIG)


def test_overwrite_leaves_nothing_but_logs(tmp_path):
    begin(tmp_path, CONFIG, overwrite=False)
    for name in ("checkpoints/last.ckpt", "metrics.csv", "train.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    begin(tmp_path, CONFIG, overwrite=False)
    assert (tmp_path / "metrics.csv").exists()
    begin(tmp_path, CONFIG, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "environment.json",
        "summary.json",
        "train.log",
    ]


def _finished(directory, text):
    begin(directory, CONFIG, overwrite=False)
    (directory / "scores").mkdir()
    (directory / "scores" / "deletion.parquet").write_text(text)
    finish(directory, {"of": text})


def _overwritten(directory, ends, *, after=""):
    with held(directory):
        begin(directory, CONFIG, overwrite=True)
        assert not (directory / "scores").exists()
        assert not is_finished(directory)
        (directory / "wandb").mkdir()
        if after:
            (directory / after).mkdir()
        if ends is None:
            return finish(directory, {"of": "the second"})
        raise ends


def _goes_on(directory, ends):
    with held(directory):
        begin(directory, CONFIG, overwrite=False)
        if ends is None:
            return finish(directory, {"of": "the second"})
        raise ends


def test_an_overwritten_run_comes_back_where_the_new_one_is_refused(tmp_path):
    _finished(tmp_path, "the first")
    for _ in range(2):
        with pytest.raises(UserError):
            _overwritten(tmp_path, UserError("no such layer"))
        assert read_summary(tmp_path) == {"of": "the first", "status": "finished"}
        assert (tmp_path / "scores" / "deletion.parquet").read_text() == "the first"
        assert not (tmp_path / "error.txt").exists()
        assert not [
            path.name for path in tmp_path.iterdir() if path.name in ("wandb", ".overwritten")
        ]


@pytest.mark.parametrize(
    ("ends", "after"), [(UserError("a broken image"), "shards"), (RuntimeError("a fault"), "")]
)
def test_a_new_run_that_has_begun_its_work_is_not_given_up_for_the_old_one(ends, after, tmp_path):
    _finished(tmp_path, "the first")
    with pytest.raises(type(ends)):
        _overwritten(tmp_path, ends, after=after)
    assert not is_finished(tmp_path)
    assert not (tmp_path / "scores").exists()
    # Refused on its way on, it is still the new one; what it replaces goes with its end.
    with pytest.raises(UserError):
        _goes_on(tmp_path, UserError("still broken"))
    assert not is_finished(tmp_path)
    _goes_on(tmp_path, None)
    assert read_summary(tmp_path)["of"] == "the second"
    assert not (tmp_path / ".overwritten").exists()


def test_what_is_overwritten_twice_gives_way_to_the_last(tmp_path):
    _finished(tmp_path, "the first")
    with pytest.raises(RuntimeError):
        _overwritten(tmp_path, RuntimeError("a fault"), after="shards")
    _overwritten(tmp_path, None)
    assert read_summary(tmp_path)["of"] == "the second"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["wandb"]


@pytest.mark.parametrize("config", [None, "name: a project of someone's\n"])
def test_a_folder_that_is_no_run_is_not_emptied(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    if config:
        (tmp_path / "config.yaml").write_text(config)
    with held(tmp_path), pytest.raises(UserError, match="nothing was removed"):
        begin(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_second_process_is_told_who_holds_the_directory(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from saliency_lab.runs.directory import held\n"
        "with held(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=rf"in use by process {holder.pid} on .* since ") as error:
        held(tmp_path).__enter__()
    assert str(tmp_path) in str(error.value)
    assert holder.poll() is None
    holder.kill()
    holder.wait()
    # The lock of a killed process falls with it.
    with held(tmp_path):
        assert json.loads((tmp_path / ".holder.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("left", [None, "a killed process's note"])
def test_a_holder_that_has_not_signed_yet_is_waited_for(left, tmp_path, monkeypatch):
    """The jobs of a sweep start at the same moment: the note may come after the lock is taken."""
    monkeypatch.setenv(SWEEP, "sweep")
    note = tmp_path / ".holder.json"
    mine = {"pid": os.getpid(), "host": platform.node(), "since": "now", "sweep": "sweep"}
    if left is not None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        note.write_text(json.dumps({**mine, "pid": gone.pid, "sweep": "another"}))
    taken = threading.Event()

    def hold_and_sign_late():
        with filelock.FileLock(tmp_path / ".lock"):
            taken.set()
            time.sleep(0.3)
            note.write_text(json.dumps(mine))
            time.sleep(0.3)

    first = threading.Thread(target=hold_and_sign_late)
    first.start()
    taken.wait()
    with held(tmp_path):
        pass
    first.join()


def test_a_holder_that_never_signs_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("saliency_lab.runs.directory._SIGNING_SECONDS", 0.2)
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(UserError, match="in use by another process"),
    ):
        held(tmp_path).__enter__()


def test_a_failure_leaves_word_and_the_next_begin_forgets_it(tmp_path):
    def fails():
        with held(tmp_path):
            begin(tmp_path, CONFIG, overwrite=False)
            raise RuntimeError("the reason")

    with pytest.raises(RuntimeError):
        fails()
    assert (tmp_path / "error.txt").read_text() == "RuntimeError: the reason\n"
    begin(tmp_path, CONFIG, overwrite=False)
    assert not (tmp_path / "error.txt").exists()


def test_what_is_refused_before_it_begins_leaves_nothing(tmp_path):
    def fails():
        with held(tmp_path / "run"):
            raise UserError("no such data")

    with pytest.raises(UserError):
        fails()
    assert not list((tmp_path / "run").iterdir())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="`output_root` to be writable"):
        held(tmp_path / "file" / "run").__enter__()


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        ({"optimizer": {"lr": 0.1, "betas": [0.9, 0.999]}}, "`optimizer.lr` is 0.001 there"),
        ({"seed": 4}, "`seed` is 3 there and 4 here"),
        ({"optimizer": {"lr": 0.001, "betas": [0.9, 0.99]}}, "`optimizer.betas`"),
    ],
)
def test_another_runs_directory_is_refused(change, pieces, tmp_path):
    begin(tmp_path, CONFIG, overwrite=False)
    with pytest.raises(UserError, match="overwrite=true") as error:
        require_same_run(tmp_path, {**CONFIG, **change})
    assert pieces in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"output_root": "elsewhere"},
        {"data": {"name": "shapes", "root": "/moved", "workers": 4}},
        {"optimizer": {"lr": 0.001, "betas": [0.9, 0.999], "amsgrad": False}},
        {"optimizer": {"lr": 0.001}},
    ],
)
def test_how_and_where_a_run_happens_makes_no_other_run(change, tmp_path):
    begin(tmp_path, CONFIG, overwrite=False)
    require_same_run(tmp_path, {**CONFIG, **change})


def test_an_empty_directory_is_anybodys(tmp_path):
    require_same_run(tmp_path, CONFIG)


def test_empty_folders_go_up_to_the_first_that_holds_something(tmp_path):
    deep = tmp_path / "kept" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    remove_empty(deep / "removed by another process", tmp_path)
    assert not list(tmp_path.iterdir())
    deep.mkdir(parents=True)
    (tmp_path / "kept" / "file").touch()
    remove_empty(deep, tmp_path)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]
    remove_empty(tmp_path, tmp_path)
    remove_empty(tmp_path.parent, tmp_path)
    assert tmp_path.exists()
