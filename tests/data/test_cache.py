from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saliency_lab.data import cache
from saliency_lab.data.cache import cached_images
from saliency_lab.data.source import Pixels, Source, Unreadable
from saliency_lab.errors import UserError


class Reads:
    """A reader that counts and gives every image its position as its pixels."""

    def __init__(self) -> None:
        self.positions: list[int] = []

    def __call__(self, positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        self.positions += positions
        values = np.asarray(positions, dtype=np.uint8)[:, None, None, None]
        return np.ascontiguousarray(np.broadcast_to(values, (len(positions), 3, 4, 4))), {}


def _source(count: int = 20, stamp: str = "1:1") -> tuple[Source, Reads]:
    reads = Reads()
    source = Source(
        class_names=("a",), ids=[str(number) for number in range(count)],
        labels=np.zeros(count, dtype=np.int64), shape=(3, 4, 4), settings="s", read=reads,
        place="here", stamps=[stamp] * count,
    )  # fmt: skip
    return source, reads


def _values(images: cache.CachedImages) -> list[int]:
    return images.take(np.arange(len(images.array)))[:, 0, 0, 0].tolist()


def test_images_are_decoded_once(tmp_path: Path) -> None:
    source, reads = _source()
    assert _values(cached_images(source, tmp_path, "x")) == list(range(20))
    assert sorted(reads.positions) == list(range(20))
    again, untouched = _source()
    assert _values(cached_images(again, tmp_path, "x")) == list(range(20))
    assert untouched.positions == []


def test_every_image_has_a_hash_of_its_pixels(tmp_path: Path) -> None:
    made = cached_images(_source()[0], tmp_path, "x")
    rows = np.array([7, 0, 19])
    expected = [
        int.from_bytes(hashlib.blake2b(bytes([row]) * 48, digest_size=8).digest()) for row in rows
    ]
    assert made.digests(rows).tolist() == expected
    # A cache of before there were hashes, one beside which other images' lie, and damaged ones:
    (path,) = tmp_path.rglob("images.digests.npy")
    whole = path.read_bytes()
    np.save(path, np.zeros(3, np.uint64))
    assert made.digests(rows).tolist() == expected
    for damaged in (b"", whole[:40], whole[:-3], b"no array"):
        path.write_bytes(damaged)
        assert made.digests(rows).tolist() == expected
    path.unlink()
    assert cached_images(_source()[0], tmp_path, "x").digests(rows).tolist() == expected


def test_a_changed_file_or_setting_makes_another_cache(tmp_path: Path) -> None:
    cached_images(_source()[0], tmp_path, "x")
    for source in (_source(stamp="1:2")[0], replace(_source()[0], settings="t"), _source(19)[0]):
        reads = Reads()
        cached_images(replace(source, read=reads), tmp_path, "x")
        assert reads.positions


def test_chunks_stay_in_order_whatever_thread_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_CHUNK_BYTES", 3 * 48)
    source, reads = _source(50)

    def slow_at_first(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        time.sleep(0.05 if positions[0] == 0 else 0)
        return reads(positions)

    images = cached_images(replace(source, read=slow_at_first), tmp_path, "x")
    assert _values(images) == list(range(50))


@pytest.mark.parametrize("damage", ["truncated", "longer", "index", "wrong shape", "no images"])
def test_a_damaged_cache_is_named_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cached_images(_source()[0], tmp_path, "x")
    (folder,) = tmp_path.glob("x-*[!k]")
    images, index = folder / "images.npy", folder / "index.json"
    if damage == "truncated":
        os.truncate(images, images.stat().st_size - 10)
    elif damage == "longer":
        images.write_bytes(images.read_bytes() + b"more")
    elif damage == "index":
        index.write_text(index.read_text()[:20])
    elif damage == "wrong shape":
        np.save(images, np.zeros((10, 6, 4, 4), dtype=np.uint8))
    else:
        images.unlink()
    source, reads = _source()
    with caplog.at_level(logging.WARNING):
        assert _values(cached_images(source, tmp_path, "x")) == list(range(20))
    assert len(reads.positions) == 20
    assert str(folder) in caplog.text
    assert "rebuilding it" in caplog.text


def test_unreadable_images_are_remembered(tmp_path: Path) -> None:
    source, reads = _source()

    def broken(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        return reads(positions)[0], {7: "seven.jpg (cut)"} if 7 in positions else {}

    for _ in range(2):
        images = cached_images(replace(source, read=broken), tmp_path, "x")
        assert images.unreadable == {7: "seven.jpg (cut)"}


def test_what_could_not_be_read_for_a_while_is_read_again(tmp_path: Path) -> None:
    source, reads = _source()
    gone = {7: "seven.jpg (Permission denied)", 9: "nine.jpg (cut)"}

    def failing(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        found = reads(positions)[0]
        failed = {row: reason for row, reason in gone.items() if row in positions}
        found[[row in failed for row in positions]] = 0
        return found, failed

    source = replace(source, read=failing)
    assert set(cached_images(source, tmp_path, "x").unreadable) == {7, 9}
    del gone[7]
    images = cached_images(source, tmp_path, "x")
    assert set(images.unreadable) == {9}
    assert _values(images)[6:10] == [6, 7, 8, 0]
    reads.positions.clear()
    assert set(cached_images(source, tmp_path, "x").unreadable) == {9}
    assert reads.positions == [9]


def test_a_part_names_what_it_cannot_read_by_its_own_positions() -> None:
    source, reads = _source()

    def broken(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        return reads(positions)[0], {7: "seven.jpg (cut)"} if 7 in positions else {}

    part = replace(source, read=broken).part(np.array([3, 7, 11]))
    pixels, unreadable = part.read([2, 1])
    assert pixels[:, 0, 0, 0].tolist() == [11, 7]
    assert unreadable == {1: "seven.jpg (cut)"}
    assert part.ids == ["3", "7", "11"]


def test_a_finished_cache_pickles_as_its_path(tmp_path: Path) -> None:
    images = cached_images(_source()[0], tmp_path, "x")
    packed = pickle.dumps(images)
    assert len(packed) < 500
    assert _values(pickle.loads(packed)) == list(range(20))


def test_an_unwritable_cache_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"to be writable"):
        cached_images(_source()[0], tmp_path / "file" / "cache", "x")


def test_a_fault_while_decoding_leaves_no_cache(tmp_path: Path) -> None:
    def fail(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cached_images(replace(_source()[0], read=fail), tmp_path, "x")
    assert not list(tmp_path.rglob("*.npy"))
    assert _values(cached_images(_source()[0], tmp_path, "x")) == list(range(20))


_MAKER = """
    import sys, time
    import numpy as np
    from pathlib import Path
    from saliency_lab.data import cache
    from saliency_lab.data.source import Source
    cache._CHUNK_BYTES = 48
    folder, pause = Path(sys.argv[1]), float(sys.argv[2])
    def read(positions):
        (folder / f"read-{positions[0]}-{sys.argv[3]}").touch()
        time.sleep(pause)
        return np.full((len(positions), 3, 4, 4), positions[0], dtype=np.uint8), {}
    source = Source(class_names=("a",), ids=[str(i) for i in range(30)],
        labels=np.zeros(30, dtype=np.int64), shape=(3, 4, 4), settings="s", read=read,
        place="here", stamps=["1:1"] * 30)
    (folder / f"started-{sys.argv[3]}").touch()
    images = cache.cached_images(source, folder / "cache", "x")
    print(images.take(np.arange(30))[:, 0, 0, 0].tolist())
"""


def _maker(folder: Path, pause: float, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(_MAKER), str(folder), str(pause), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_maker_killed_in_the_middle_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    first = _maker(tmp_path, 0.3, "first")
    _wait_for(lambda: len(list(tmp_path.glob("read-*-first"))) > 8, "the first maker never read")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert list((tmp_path / "cache").rglob("*.part.npy"))
    assert not list((tmp_path / "cache").rglob("index.json"))

    second = _maker(tmp_path, 0, "second")
    assert json.loads(second.communicate(timeout=60)[0]) == list(range(30))
    assert len(list(tmp_path.glob("read-*-second"))) == 30
    assert not list((tmp_path / "cache").rglob("*.part.npy"))


def test_of_two_processes_one_makes_and_the_other_waits(tmp_path: Path) -> None:
    makers = [_maker(tmp_path, 0.05, name) for name in ("one", "two")]
    for maker in makers:
        assert json.loads(maker.communicate(timeout=60)[0]) == list(range(30))
    assert len(list(tmp_path.glob("started-*"))) == 2
    assert len(list(tmp_path.glob("read-*"))) == 30
