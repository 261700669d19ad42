"""Caches are removed by age or size, and never while somebody uses them."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saliency_lab.data.cache import CachedImages, cached_images
from saliency_lab.data.held_file import held_alone
from saliency_lab.data.old_caches import found_caches, keep_below, remove_unused, size_of
from saliency_lab.data.source import Pixels, Source, Unreadable
from saliency_lab.errors import UserError

DAY = 86400.0


def made(place: Path, name: str, count: int = 1000, age: float = 0.0) -> CachedImages:
    """A cache of `count` images of 56 bytes, hashes included, opened so many seconds ago."""

    def read(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        return np.zeros((len(positions), 3, 4, 4), dtype=np.uint8), {}

    source = Source(
        class_names=("a",), ids=[str(number) for number in range(count)],
        labels=np.zeros(count, dtype=np.int64), shape=(3, 4, 4), settings=name, read=read,
        place="here",
    )  # fmt: skip
    images = cached_images(source, place, name)
    if age:
        moment = time.time() - age
        os.utime(images.path.with_name("index.json"), (moment, moment))
    return images


def names(place: Path) -> list[str]:
    return [one.folder.name.split("-")[0] for one in found_caches(place)]


def test_what_was_not_opened_for_long_is_removed(tmp_path: Path) -> None:
    for name, days in (("new", 1), ("old", 40), ("older", 50)):
        made(tmp_path, name, age=days * DAY)
    assert names(tmp_path) == ["older", "old", "new"]
    gone = remove_unused(tmp_path, 30 * DAY)
    assert [one.folder.name.split("-")[0] for one in gone] == ["older", "old"]
    assert all(one.size > 48_000 for one in gone)
    assert names(tmp_path) == ["new"]
    assert not any(one.folder.exists() for one in gone)


def test_opening_a_cache_makes_it_young(tmp_path: Path) -> None:
    made(tmp_path, "one", age=40 * DAY)
    made(tmp_path, "one")
    assert remove_unused(tmp_path, 30 * DAY) == []


def test_the_longest_unused_go_until_the_rest_is_small_enough(tmp_path: Path) -> None:
    for name, days in (("a", 3), ("b", 2), ("c", 1)):
        made(tmp_path, name, age=days * DAY)
    assert keep_below(tmp_path, 10e6) == []
    assert len(keep_below(tmp_path, 120e3)) == 1
    assert names(tmp_path) == ["b", "c"]


def test_a_cache_that_is_open_stays(tmp_path: Path) -> None:
    images = made(tmp_path, "open", age=40 * DAY)
    assert remove_unused(tmp_path, 0.0) == []
    assert keep_below(tmp_path, 0.0) == []
    assert images.take(np.array([999])).sum() == 0
    del images
    assert len(remove_unused(tmp_path, 0.0)) == 1


def test_a_cache_that_another_process_has_open_stays(tmp_path: Path) -> None:
    path = str(made(tmp_path, "open", age=40 * DAY).path)
    code = (
        "import sys; from pathlib import Path; from saliency_lab.data.cache import CachedImages;"
        "images = CachedImages(Path(sys.argv[1]), {}); print('open', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"open\n"
    assert remove_unused(tmp_path, 0.0) == []
    other.communicate(b"\n", timeout=60)
    assert len(remove_unused(tmp_path, 0.0)) == 1


def test_a_lock_for_one_alone_is_asked_for_as_nfs_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS gives exclusive locks on files that are open for writing only, and may give none."""
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    flock, asked = fcntl.flock, []

    def nfs(opened: object, how: int) -> None:
        mode = fcntl.fcntl(opened, fcntl.F_GETFL) & os.O_ACCMODE
        asked.append(how)
        if how & fcntl.LOCK_EX and mode == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(opened, how)

    monkeypatch.setattr("fcntl.flock", nfs)
    with held_alone(file) as alone:
        assert alone
    assert asked
    assert file.read_bytes() == b"kept"

    def none(opened: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with held_alone(file) as alone:
        assert not alone


def test_what_is_no_cache_stays(tmp_path: Path) -> None:
    (tmp_path / "my-notes").mkdir()
    (tmp_path / "my-notes" / "index.json").write_text("{}")
    assert remove_unused(tmp_path, -1.0) == []
    assert (tmp_path / "my-notes" / "index.json").is_file()
    assert found_caches(tmp_path / "nowhere") == []


def test_a_limit_holds_when_a_cache_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, "a", age=2 * DAY)
    made(tmp_path, "b", age=1 * DAY)
    monkeypatch.setenv("SALIENCY_LAB_CACHE_LIMIT", "120kB")
    made(tmp_path, "c", age=3 * DAY)
    assert sorted(names(tmp_path)) == ["b", "c"]
    # The new one is there, whatever the limit.
    monkeypatch.setenv("SALIENCY_LAB_CACHE_LIMIT", "1kB")
    made(tmp_path, "d")
    assert names(tmp_path) == ["d"]
    monkeypatch.setenv("SALIENCY_LAB_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match=r"\$SALIENCY_LAB_CACHE_LIMIT to be a size.*'much'"):
        made(tmp_path, "e")


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20e9), ("1.5 mb", 1.5e6), ("7kB", 7e3), ("20", None), ("GB", None), ("-1GB", None)],
)
def test_sizes_in_words(text: str, size: float | None) -> None:
    assert size_of(text) == size


def test_the_command_says_what_it_removed(tmp_path: Path, command: Callable[..., Any]) -> None:
    for name, days in (("a", 40), ("b", 20), ("c", 1)):
        made(tmp_path, name, count=30_000, age=days * DAY)
    place = f"cache_dir={tmp_path}"
    done = command("runs", "remove_caches=30d", place)
    assert done.code == 0, done.err
    assert done.out == (f"removed 1 of 3 image caches in '{tmp_path}', 1.7 MB; 3.4 MB are left\n")
    assert "removed 1 of 2" in command("runs", "remove_caches=2MB", place).out
    refused = command("runs", "remove_caches=soon", place)
    assert (refused.code, "`remove_caches` to be days (30d)" in refused.err) == (2, True)
    assert "removed 1 of 1" in command("runs", "remove_caches=all", place).out
