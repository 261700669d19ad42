from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from saliency_lab.errors import UserError
from saliency_lab.runs.files import atomic_path, file_word, write_json, write_text


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "summary.json", {"accuracy": 0.5, "names": ["ä"]})
    assert json.loads((tmp_path / "deep" / "summary.json").read_text("utf-8"))["names"] == ["ä"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["summary.json"]


def test_texts_as_words_of_file_names() -> None:
    assert file_word("CIFAR-10 · ResNet-18 (seed 1)") == "cifar-10-resnet-18-seed-1"
    long, other = ("x" * 400 + end for end in "ab")
    assert len(file_word(long)) == 150
    assert file_word(long) != file_word(other)


def test_the_target_is_untouched_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".parquet"
        assert not list(tmp_path.glob("rows*.parquet"))[1:]
    assert target.read_text() == "new"


def test_what_is_written_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a renamed file must not be an empty one: file, rename, folder."""
    order: list[tuple[str, object]] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        order.append(("fsync", os.fstat(descriptor).st_ino))
        sync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        order.append(("replace", source.stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "summary.json", "text")
    file, folder = (tmp_path / "summary.json").stat().st_ino, tmp_path.stat().st_ino
    assert order == [("fsync", file), ("replace", file), ("fsync", folder)]


def test_a_failure_keeps_the_old_file_and_removes_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "curves.csv"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["curves.csv"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, code: int) -> None:
    target = tmp_path / "curves.csv"
    target.write_text("old")

    def fill() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(UserError, match=r"No space left .* while writing .*curves\.csv") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["curves.csv"]


def test_a_full_disk_without_an_error_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    def fill() -> None:
        with atomic_path(tmp_path / "last.ckpt"):
            raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    with pytest.raises(UserError, match=r"No space left .*last\.ckpt"):
        fill()


def test_an_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"summary\.json to be writable"):
        write_text(tmp_path / "file" / "summary.json", "text")


def test_a_read_only_place_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"a\.txt to be writable, but got: Permission denied"):
        write_text(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == []


def test_other_errors_of_the_block_are_not_disguised(tmp_path: Path) -> None:
    def read_missing() -> None:
        with atomic_path(tmp_path / "a.txt"):
            (tmp_path / "missing").read_text()

    with pytest.raises(FileNotFoundError, match="missing"):
        read_missing()


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"area": float("nan")})
    assert os.listdir(tmp_path) == []
