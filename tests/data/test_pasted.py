from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.data.pasted import Pasted
from saliency_lab.errors import UserError

OBJECTS, SCENES = ("cat", "dog"), ("beach", "forest", "street")


@pytest.fixture
def trees(make_tree) -> Path:
    """Objects of 2 and scenes of 3 classes; the smallest class of scenes allows 2 rounds to train
    on, the smallest of objects 1 to test on."""
    objects = {"train/cat": 7, "train/dog": 6, "test/cat": 4, "test/dog": 3}
    scenes = {"train/beach": 4, "train/forest": 9, "train/street": 5}
    scenes |= {f"val/{name}": 6 for name in SCENES}
    make_tree({f"objects/{place}": count for place, count in objects.items()}, size=(8, 8))
    counts = {f"scenes/{place}": count for place, count in scenes.items()}
    return make_tree(counts, size=(20, 14), seed=1)


def pasted(trees: Path, **settings: object) -> Pasted:
    given = {"root": str(trees / "objects"), "scenes": str(trees / "scenes"), "size": 16}
    return Pasted(**{**given, "object_size": 6, **settings})


def classes(sample: str) -> tuple[str, str]:
    first, second = sample.split("+")
    return first.split("/")[1], second.split("/")[1]


def test_every_object_meets_every_scene_equally_often_and_nothing_is_used_twice(trees: Path):
    module = pasted(trees)
    assert module.sizes == {"train": 2 * 6, "test": 6}
    for split, place, times in (("train", "train", 2), ("test", "val", 1)):
        ids = module.ids(split)
        assert Counter(map(classes, ids)) == {(o, s): times for o in OBJECTS for s in SCENES}
        objects, scenes = zip(*(name.split("+") for name in ids), strict=True)
        assert len(set(objects)) == len(set(scenes)) == len(ids)
        assert all(name.startswith(f"{split}/") for name in objects)
        assert all(name.startswith(f"{place}/") for name in scenes)


def test_labels_name_the_one_or_the_other_of_the_same_images(trees: Path):
    by_object, by_scene = (pasted(trees, classes_are=kind) for kind in ("object", "scene"))
    assert by_object.class_names == OBJECTS
    assert by_scene.class_names == SCENES
    for split in ("train", "test"):
        ids, every = by_object.ids(split), range(by_object.sizes[split])
        assert by_scene.ids(split) == ids
        assert [OBJECTS[label] for label in by_object.labels(split)] == [classes(i)[0] for i in ids]
        assert [SCENES[label] for label in by_scene.labels(split)] == [classes(i)[1] for i in ids]
        np.testing.assert_array_equal(by_object.images(split, every), by_scene.images(split, every))
        # The evidence is what the labels name.
        np.testing.assert_array_equal(by_object.masks(split, every), ~by_scene.masks(split, every))


@pytest.mark.parametrize("place", ["random", "bottom_left", "centre"])
def test_the_object_is_where_the_mask_is_and_the_scene_around_it(trees: Path, place: str):
    module = pasted(trees, place=place)
    assert module.has_masks("train")
    for index, sample in enumerate(module.ids("train")):
        (pixels,), (mask,) = module.images("train", [index]), module.masks("train", [index])
        first, second = (Path(part) for part in sample.split("+"))
        with Image.open(trees / "objects" / first) as opened:
            small = np.asarray(opened.resize((6, 6), Image.Resampling.BILINEAR))
        with Image.open(trees / "scenes" / second) as opened:
            expected = np.array(opened.resize((16, 16), Image.Resampling.BILINEAR))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == 36
        assert (np.ptp(rows), np.ptp(columns)) == (5, 5)
        for row in range(6):
            for column in range(6):
                expected[rows[0] + row, columns[0] + column] = small[row, column]
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)
        if place == "bottom_left":
            assert (rows[0], columns[0]) == (10, 0)
        if place == "centre":
            assert (rows[0], columns[0]) == (5, 5)


def test_random_places_differ_and_belong_to_the_image(trees: Path):
    module, few = pasted(trees), pasted(trees, limit=5, seed=9)
    masks = module.masks("train", range(12))
    assert len(np.unique(masks.reshape(12, -1), axis=0)) > 6
    assert module.masks("train", []).shape == (0, 16, 16)
    np.testing.assert_array_equal(few.masks("train", range(5)), masks[:5])


def test_pairs_are_their_own_seeds_and_not_the_runs(trees: Path):
    ids = pasted(trees).ids("train")
    assert pasted(trees, seed=7).ids("train") == ids
    assert pasted(trees, pairs_seed=1).ids("train") != ids


@pytest.mark.parametrize("kind", ["object", "scene"])
def test_a_limit_leaves_the_same_balanced_images_for_both_labels(trees: Path, kind: str):
    whole = pasted(trees).ids("train")
    assert pasted(trees, limit=6, classes_are=kind, seed=3).ids("train") == whole[:6]
    assert set(Counter(map(classes, whole[:6])).values()) == {1}
    assert len(Counter(map(classes, whole[:6]))) == 6
    assert Counter(classes(sample)[0] for sample in whole[:4]) == {"cat": 2, "dog": 2}
    some = pasted(trees, limit=4, classes=["street", "beach"], classes_are="scene")
    assert some.ids("train") == [i for i in whole if classes(i)[1] in ("street", "beach")][:4]


def test_an_unreadable_image_takes_its_pair_with_it(trees: Path):
    first, second = pasted(trees).ids("train")[:2]
    (trees / "objects" / first.split("+")[0]).write_bytes(b"no image")
    (trees / "scenes" / second.split("+")[1]).write_bytes(b"no image")
    with pytest.raises(UserError, match="2 of 12 cannot be read") as caught:
        pasted(trees).setup("fit")
    assert first.split("+")[0] in str(caught.value)
    assert second.split("+")[1] in str(caught.value)
    left = pasted(trees, on_corrupt="skip").ids("train")
    assert len(left) == 10
    assert not {first, second} & set(left)


def message(trees: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        pasted(trees, **settings).setup("fit")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_is_said(trees: Path, make_tree):
    assert "`data.root` to be a folder" in message(trees, root=None)
    assert "`data.scenes` to be a folder" in message(trees, scenes=None)
    gone = message(trees, scenes=str(trees / "gone"))
    assert "`data.scenes` to be an existing folder" in gone
    assert "`data.root`" not in gone
    assert "smaller than `data.size` (16), but got 16" in message(trees, object_size=16)
    make_tree({"few/train/cat": 2, "few/train/dog": 8, "few/test/cat": 3, "few/test/dog": 3})
    few = message(trees, root=str(trees / "few"))
    assert "`data.root` to hold at least 3 images of every class" in few
    assert "the smallest class has 2" in few
    few = message(trees, root=str(trees / "scenes"), scenes=str(trees / "few"))
    assert "`data.scenes` to hold at least 3 images of every class" in few
