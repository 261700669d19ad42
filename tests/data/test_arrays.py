"""Images of a person's own, as arrays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from saliency_lab.data.arrays import Arrays
from saliency_lab.errors import UserError

LABELS = {"train": [2, 0, 1, 0, 2, 1, 1], "test": [1, 0, 2]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "arrays"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, labels in LABELS.items():
        pixels = rng.integers(0, 256, (len(labels), 3, 5, 4), dtype=np.uint8)
        np.save(folder / f"{split}-images.npy", pixels)
        np.save(folder / f"{split}-labels.npy", np.array(labels, dtype=np.int32))
    return folder


def test_images_labels_and_names_are_those_of_the_files(root: Path) -> None:
    data = Arrays(root=str(root))
    data.prepare_data()
    assert data.input_shape == (3, 5, 4)
    assert data.class_names == ("0", "1", "2")
    assert data.ids("test") == ["test/0", "test/1", "test/2"]
    for split, labels in LABELS.items():
        stored = np.load(root / f"{split}-images.npy")
        assert data.labels(split).tolist() == labels
        assert np.array_equal(data.images(split, [2, 0]), stored[[2, 0]])


def test_names_may_lie_beside_the_images(root: Path) -> None:
    (root / "classes.json").write_text(json.dumps(["cat", "cow", "dog", "emu"]))
    (root / "test-ids.json").write_text(json.dumps(["x", "y", "z"]))
    data = Arrays(root=str(root))
    assert data.class_names == ("cat", "cow", "dog", "emu")
    assert data.ids("test") == ["x", "y", "z"]
    assert data.ids("train")[6] == "train/6"


def test_nothing_is_copied(root: Path, tmp_path: Path) -> None:
    data = Arrays(root=str(root), cache_dir=str(tmp_path / "cache"))
    data.setup("fit")
    data.setup("test")
    assert not (tmp_path / "cache").exists()
    assert data.split("train").images.path == root / "train-images.npy"


def test_classes_limit_and_validation_choose_images_with_their_own_labels(root: Path) -> None:
    stored = np.load(root / "train-images.npy")
    chosen = Arrays(root=str(root), classes=["2", "1"], limit=4)
    assert sorted(chosen.labels("train").tolist()) == [0, 0, 1, 1]
    divided = Arrays(root=str(root), validation=0.4, seed=3)
    kept, held = divided.ids("train"), divided.ids("val")
    assert sorted(kept + held) == [f"train/{number}" for number in range(7)]
    for data, split in ((chosen, "train"), (divided, "train"), (divided, "val")):
        names = {"2": 0, "1": 1} if data is chosen else {"0": 0, "1": 1, "2": 2}
        for place, name in enumerate(data.ids(split)):
            number = int(name.split("/")[1])
            assert np.array_equal(data.images(split, [place])[0], stored[number])
            assert data.labels(split)[place] == names[str(LABELS["train"][number])]


def test_the_fingerprint_is_that_of_the_pixels(root: Path) -> None:
    before = Arrays(root=str(root)).fingerprint("train")
    path = root / "train-images.npy"
    pixels = np.load(path)
    os.utime(path, (1, 1))
    assert Arrays(root=str(root)).fingerprint("train") == before
    pixels[3, 1, 2, 2] ^= 1
    np.save(path, pixels)
    assert Arrays(root=str(root)).fingerprint("train") != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images.npy", None, "train-images.npy"),
        ("train-images.npy", np.zeros((7, 5, 4, 3)), r"uint8 images \(N, C, H, W\)"),
        ("train-images.npy", np.zeros((7, 5, 4, 3), np.uint8), r"looks like \(N, H, W, C\)"),
        ("train-images.npy", np.zeros((7, 5, 4, 1), np.uint8), r"transpose\(0, 3, 1, 2\)"),
        ("test-images.npy", np.zeros((3, 3, 5, 5), np.uint8), "shape"),
        ("test-labels.npy", np.zeros(4, np.int64), "a label for each of the 3 test images"),
        ("test-labels.npy", np.array([0, -1, 2]), "labels from 0 on"),
        ("test-labels.npy", np.zeros(3), "labels from 0 on"),
        ("test-labels.npy", np.array([0, 1, 10**12]), "a class each, but got 1,000,000,000,000"),
        ("test-images.npy", b"\x93NUMPY nonsense", "readable test-images.npy"),
        ("classes.json", ["a", "b"], "name the 3 classes"),
        ("classes.json", ["a", "b", "b"], "different names"),
        ("test-ids.json", ["a", "b"], "name the 3 test images"),
        ("test-ids.json", b"[", "list of names"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(
    root: Path, name: str, content: object, message: str
) -> None:
    path = root / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_text(json.dumps(content))
    data = Arrays(root=str(root))
    with pytest.raises(UserError, match=message) as error:
        [data.ids(split) for split in ("test", "train")]
    assert "\n" not in str(error.value)


def test_without_a_folder_it_says_what_belongs_there() -> None:
    with pytest.raises(UserError, match=r"train-images\.npy"):
        Arrays().setup("fit")
