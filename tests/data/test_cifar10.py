from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from saliency_lab.data.cifar10 import Cifar10
from saliency_lab.errors import UserError

# In the order of the archive's labels.
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


@pytest.mark.parametrize("inside", ["", "cifar10/"])
def test_class_folders_in_root_or_in_its_cifar10(make_tree, inside: str) -> None:
    places = [f"{inside}{split}/{name}" for split in ("train", "test") for name in CLASSES]
    root = make_tree(dict.fromkeys(places, 1), size=(32, 32))
    module = Cifar10(root=str(root))
    module.prepare_data()
    assert module.class_names == CLASSES
    assert module.input_shape == (3, 32, 32)
    assert module.ids("test")[3] == "test/cat/0000.png"
    assert module.labels("train").tolist() == list(range(10))


def test_the_archive_in_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    pixels = _write_archive(tmp_path)
    # The checksums are those of the real files.
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda _: None)
    module = Cifar10(root=str(tmp_path))
    module.prepare_data()
    assert module.sizes == {"train": 50, "test": 10}
    assert module.ids("test")[7] == "test/7"
    assert module.ids("train")[49] == "train/49"
    expected = pixels["data_batch_2"].reshape(10, 3, 32, 32)
    assert np.array_equal(module.images("train", range(10, 20)), expected)
    assert module.labels("train").tolist() == list(range(10)) * 5


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    _write_archive(tmp_path)
    with pytest.raises(UserError, match=r"`data\.root`.*other checksums"):
        Cifar10(root=str(tmp_path)).setup("fit")


def _write_archive(root: Path) -> dict[str, np.ndarray]:
    rng, pixels = np.random.default_rng(0), {}
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        pixels[name] = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        entry = {"data": pixels[name], "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    return pixels


def test_without_a_network_one_line_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import cifar

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(cifar, "download_and_extract_archive", unreachable)
    with pytest.raises(UserError, match=r"data\.root .*cifar-10-batches-py") as caught:
        Cifar10(root=str(tmp_path)).prepare_data()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_root_is_not_downloaded_into(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`data\.root` to be an existing folder"):
        Cifar10(root=str(tmp_path / "typo")).prepare_data()


def test_the_real_images(real_data: Path) -> None:
    module = Cifar10(root=str(real_data), limit=200)
    assert len(module._source("train")) == 50_000
    assert module.sizes == {"train": 200, "test": 200}
    assert np.bincount(module.labels("train")).tolist() == [20] * 10
    assert module.images("test", range(200)).std() > 40
