from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.data.imagenette import CLASSES, Imagenette
from saliency_lab.errors import UserError


@pytest.mark.parametrize("inside", ["", "imagenette2/", "imagenette2-160/"])
def test_an_unpacked_folder_is_used_as_it_is(make_tree, inside: str) -> None:
    places = [f"{inside}{split}/{wnid}" for split in ("train", "val") for wnid in CLASSES.values()]
    root = make_tree(dict.fromkeys(places, 2), size=(16, 16))
    module = Imagenette(root=str(root), size=16)
    module.prepare_data()
    assert module.class_names[:2] == ("tench", "English springer")
    assert module.sizes == {"train": 20, "test": 20}
    assert module.ids("test")[0] == "val/n01440764/0000.png"
    expected = np.asarray(Image.open(root / inside / module.ids("test")[5])).transpose(2, 0, 1)
    assert np.array_equal(module.images("test", [5])[0], expected)


def test_names_are_torchvisions_in_the_order_of_the_wnids() -> None:
    from torchvision.datasets import Imagenette as Peer

    assert list(CLASSES.values()) == sorted(CLASSES.values())
    assert {wnid: names[0] for wnid, names in Peer._WNID_TO_CLASS.items()} == {
        wnid: name for name, wnid in CLASSES.items()
    }


def test_classes_go_by_their_readable_names(make_tree) -> None:
    places = [f"{split}/{wnid}" for split in ("train", "val") for wnid in CLASSES.values()]
    root = make_tree(dict.fromkeys(places, 1), size=(16, 16))
    module = Imagenette(root=str(root), size=16, classes=["golf ball", "French horn"])
    assert module.ids("test") == ["val/n03394916/0000.png", "val/n03445777/0000.png"]
    assert module.labels("test").tolist() == [1, 0]


def test_without_a_network_one_line_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import imagenette

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(imagenette, "download_and_extract_archive", unreachable)
    with pytest.raises(UserError, match=r"data\.root .*imagenette2/train") as caught:
        Imagenette(root=str(tmp_path)).prepare_data()
    assert "\n" not in str(caught.value)


def test_an_interrupted_download_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import imagenette

    calls = []

    def unpack(url: str, root: str, md5: str) -> None:
        calls.append(url)
        for split in ("train", "val"):
            for wnid in CLASSES.values():
                folder = Path(root) / "imagenette2" / split / wnid
                folder.mkdir(parents=True)
                Image.new("RGB", (16, 16)).save(folder / "a.JPEG")
                if len(calls) == 1:
                    raise OSError("Connection reset by peer")

    monkeypatch.setattr(imagenette, "download_and_extract_archive", unpack)
    module = Imagenette(root=str(tmp_path), size=16)
    with pytest.raises(UserError, match="Connection reset"):
        module.prepare_data()
    module.prepare_data()
    assert module.sizes == {"train": 10, "test": 10}
    assert len(calls) == 2


def test_the_real_images(real_data: Path) -> None:
    module = Imagenette(root=str(real_data), limit=50)
    assert len(module._source("train")) == 9469
    assert len(module._source("test")) == 3925
    path = real_data / "imagenette2" / module.ids("test")[0]
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(module.images("test", [0])[0], expected)
