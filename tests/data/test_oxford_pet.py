from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.data.oxford_pet import OxfordPet
from saliency_lab.errors import UserError

# Name, breed's number, species, number within the species.
TRAINVAL = ("Abyssinian_1 1 1 1", "Abyssinian_2 1 1 1", "american_bulldog_7 2 2 1", "pug_3 3 2 2")
TEST = ("Abyssinian_3 1 1 1", "american_bulldog_8 2 2 1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "oxford-iiit-pet"
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True)
    for name, lines in (("trainval", TRAINVAL), ("test", TEST)):
        (root / "annotations" / f"{name}.txt").write_text("# a remark\n" + "\n".join(lines) + "\n")
        for number, line in enumerate(lines):
            pixels = np.full((10, 7, 3), 40 * (number + 1), np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{line.split()[0]}.jpg")
    return root


def test_species(root: Path) -> None:
    module = OxfordPet(root=str(root.parent), size=8)
    module.prepare_data()
    assert module.class_names == ("cat", "dog")
    assert module.sizes == {"train": 4, "test": 2}
    assert module.ids("train")[2:] == ["images/american_bulldog_7.jpg", "images/pug_3.jpg"]
    assert module.labels("train").tolist() == [0, 0, 1, 1]


def test_the_labels_are_torchvisions(root: Path) -> None:
    from torchvision.datasets import OxfordIIITPet

    (root / "annotations" / "trainval.txt").write_text("\n".join(TRAINVAL) + "\n")
    peer = OxfordIIITPet(str(root.parent), split="trainval", target_types="binary-category")
    module = OxfordPet(root=str(root), size=8)
    assert [peer[i][1] for i in range(4)] == module.labels("train").tolist()


def test_breeds(root: Path) -> None:
    module = OxfordPet(
        root=str(root), size=8, classes_are="breed", classes=["Abyssinian", "american_bulldog"]
    )
    assert module.labels("test").tolist() == [0, 1]
    assert module.sizes == {"train": 3, "test": 2}


def test_without_a_network_one_line_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets, "OxfordIIITPet", unreachable)
    with pytest.raises(UserError, match=r"data\.root .*oxford-iiit-pet/images") as caught:
        OxfordPet(root=str(tmp_path)).prepare_data()
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "images" / "pug_3.jpg").unlink()
    with pytest.raises(UserError, match=r"pug_3\.jpg cannot be read"):
        _ = OxfordPet(root=str(root), size=8).sizes
