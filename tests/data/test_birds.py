"""The layout of CUB-200-2011: four tables and a folder per species."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.data.birds import Birds
from saliency_lab.errors import UserError

SPECIES = {
    "001.Black_footed_Albatross": 2,
    "113.Baird_Sparrow": 3,
    "118.House_Sparrow": 2,
    "158.Bay_breasted_Warbler": 4,
    "167.Hooded_Warbler": 2,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "CUB_200_2011"
    images, labels, splits, number = [], [], [], 0
    for label, (name, count) in enumerate(SPECIES.items(), start=1):
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for place in range(count):
            number += 1
            file = f"{name.partition('.')[2]}_{place:04d}_{number}.jpg"
            Image.fromarray(np.full((9, 12, 3), number * 10, np.uint8)).save(folder / file)
            images.append(f"{number} {name}/{file}")
            labels.append(f"{number} {label}")
            splits.append(f"{number} {int(place > 0)}")
    classes = [f"{label} {name}" for label, name in enumerate(SPECIES, start=1)]
    for name, lines in (
        ("images", images),
        ("image_class_labels", labels),
        ("train_test_split", splits),
        ("classes", classes),
    ):
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_species_are_joined_into_two_classes(root: Path) -> None:
    module = Birds(root=str(root.parent), size=8)
    assert module.class_names == ("warbler", "sparrow")
    # The first image of every species is for testing.
    assert module.sizes == {"train": 7, "test": 4}
    assert module.labels("train").tolist() == [0] * 4 + [1] * 3
    folder = "images/158.Bay_breasted_Warbler"
    assert module.ids("test")[0] == f"{folder}/Bay_breasted_Warbler_0000_8.jpg"
    assert abs(int(module.images("test", [0]).mean()) - 80) <= 2
    assert not any("Albatross" in name for name in module.ids("train"))


def test_every_species_by_itself(root: Path) -> None:
    module = Birds(root=str(root), size=8, groups=None)
    assert module.class_names == tuple(SPECIES)
    assert module.sizes == {"train": 8, "test": 5}


def test_what_is_wrong_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="'owl'"):
        _ = Birds(root=str(root), size=8, groups=("owl", "sparrow")).sizes
    (root / "images" / "113.Baird_Sparrow" / "Baird_Sparrow_0000_3.jpg").unlink()
    with pytest.raises(UserError, match=r"Baird_Sparrow_0000_3\.jpg cannot be read"):
        _ = Birds(root=str(root), size=8).sizes
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt cannot be read"):
        _ = Birds(root=str(root), size=8).sizes
