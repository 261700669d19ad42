from __future__ import annotations

import numpy as np
import pytest

from saliency_lab.data.shapes import Shapes
from saliency_lab.data.shortcuts import Cue
from saliency_lab.errors import UserError

IDS = [f"test/{number}" for number in range(400)]


def cue(**settings):
    given = {"kind": "watermark", "label": 1, "share": 0.7, "strength": 1.0, "place": "centre"}
    return Cue(**{**given, "seed": 3, **settings})


def test_only_a_share_of_one_class_carries_it():
    labels = np.arange(400) % 4
    found = cue().carried(labels, IDS)
    assert not found[labels != 1].any()
    assert found[labels == 1].mean() == pytest.approx(0.7, abs=0.15)
    assert np.array_equal(cue().carried(labels[50:90], IDS[50:90]), found[50:90])
    assert not np.array_equal(cue(seed=4).carried(labels, IDS), found)
    assert cue(share=1.0).carried(labels, IDS).sum() == 100


@pytest.mark.parametrize("kind", ["watermark", "patch"])
@pytest.mark.parametrize("size", [(32, 32), (40, 64), (224, 224)])
def test_the_mask_is_where_pixels_change(kind, size):
    made = cue(kind=kind, place="random")
    grey = np.full((6, 3, *size), 128, dtype=np.uint8)
    changed = (made.planted(grey, IDS[:6]) != grey).any(1)
    masks = made.masks(IDS[:6], size)
    assert np.array_equal(changed, masks)
    assert 0.01 < masks.mean() < 0.15
    assert len({mask.tobytes() for mask in masks}) == 6


@pytest.mark.parametrize(
    ("place", "corner"),
    [
        ("top_left", (0, 0)),
        ("bottom_right", (26, 26)),
        ("top_right", (0, 26)),
        ("centre", (13, 13)),
    ],
)
def test_places(place, corner):
    mask = cue(kind="patch", place=place).masks(IDS[:1], (32, 32))[0]
    rows, columns = np.nonzero(mask)
    assert (rows.min(), columns.min()) == corner
    assert mask.sum() == 36


def test_strength_is_opacity():
    black = np.zeros((1, 3, 32, 32), dtype=np.uint8)
    weak = cue(kind="watermark", strength=0.25).planted(black, IDS[:1])
    assert set(np.unique(weak)) == {0, 64}
    tinted = cue(kind="colour", strength=0.5).planted(black, IDS[:1])
    assert tinted[0, :, 5, 7].tolist() == [128, 60, 0]
    assert cue(kind="colour").masks(IDS[:2], (8, 8)).all()


def test_data_sets_plant_it_and_know_what_was_there_before(tmp_path):
    settings = {"train_images": 40, "test_images": 40, "cache_dir": str(tmp_path)}
    plain = Shapes(**settings)
    marked = Shapes(**settings, shortcut="patch", shortcut_share=1.0, shortcut_class="star")
    label = marked.class_names.index("star")
    rows = np.arange(40)
    before, after = plain.images("test", rows), marked.images("test", rows)
    changed = (before != after).any((1, 2, 3))
    assert np.array_equal(changed, plain.labels("test") == label)
    assert np.array_equal(marked.split("test").clean_pixels(rows), before)
    assert np.array_equal(marked.split("test").__getitems__([3]).image.numpy(), after[3:4])
    assert marked.fingerprint("test") != plain.fingerprint("test")
    assert Shapes(**settings).cue is None
    with pytest.raises(UserError, match=r"`data\.shortcut_class`"):
        Shapes(**settings, shortcut="patch", shortcut_class="stir").split("test")
