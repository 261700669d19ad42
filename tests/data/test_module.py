from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saliency_lab.data.batch import Batch, channels_last_pixels
from saliency_lab.data.folder import Folder
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError

COUNTS = {"train/ant": 10, "train/bee": 6, "train/cow": 8, "test/ant": 3, "test/bee": 3,
          "test/cow": 5}  # fmt: skip


@pytest.fixture
def root(make_tree) -> Path:
    return make_tree(COUNTS)


def _folder(root: Path, **settings: object) -> Folder:
    module = Folder(root=str(root), **{"size": 8, "batch_size": 5, **settings})
    module.setup("fit")
    return module


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def test_what_a_task_asks_for(root: Path) -> None:
    module = _folder(root)
    assert module.class_names == ("ant", "bee", "cow")
    assert module.num_classes == 3
    assert module.input_shape == (3, 8, 8)
    assert module.sizes == {"train": 24, "test": 11}
    ids = module.ids("test")
    assert ids[3] == "test/bee/0000.png"
    assert module.labels("test").tolist() == [0] * 3 + [1] * 3 + [2] * 5
    expected = np.stack([_pixels(root / ids[index]) for index in (10, 0)])
    assert np.array_equal(module.images("test", [10, 0]), expected)


def test_batches_hold_what_the_files_hold(root: Path) -> None:
    module = _folder(root)
    seen: list[str] = []
    for batch in module.train_dataloader():
        assert batch.image.dtype == torch.uint8
        assert batch.label.dtype == batch.index.dtype == torch.int64
        for image, label, index, name in zip(*batch, strict=True):
            assert np.array_equal(image.numpy(), _pixels(root / name))
            assert module.class_names[label] == name.split("/")[1]
            assert module.ids("train")[index] == name
            seen.append(name)
    assert sorted(seen) == sorted(module.ids("train"))


def test_pixels_are_in_zero_to_one_on_the_device(root: Path) -> None:
    module = _folder(root, augment="basic")
    batch = next(iter(module.test_dataloader()))
    ready = module.on_after_batch_transfer(batch, 0)
    assert ready.image.dtype == torch.float32
    assert torch.equal(ready.image, batch.image.float() / 255)
    assert ready.ids == batch.ids


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_training_pixels_are_the_same_numbers_in_another_layout(channels: int) -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(2 * channels).view(2, channels, 16, 16)
    ready = channels_last_pixels(values)
    assert ready.dtype == torch.float32
    assert torch.equal(ready, values.float() / 255)
    assert ready.is_contiguous(memory_format=torch.channels_last)


def test_classes_select_and_renumber_on_the_cache_of_the_whole_split(root: Path) -> None:
    module = _folder(root, classes=["cow", "ant"])
    assert module.class_names == ("cow", "ant")
    assert module.sizes == {"train": 18, "test": 8}
    for name, label in zip(module.ids("test"), module.labels("test"), strict=True):
        assert module.class_names[label] == name.split("/")[1]
    whole = _folder(root)
    assert module.split("train").images.path == whole.split("train").images.path


def test_limit_decodes_only_what_is_used(root: Path) -> None:
    module = _folder(root, limit=6)
    assert np.bincount(module.labels("train")).tolist() == [2, 2, 2]
    assert len(module.split("train").images.array) == 6
    for index, name in enumerate(module.ids("train")):
        assert np.array_equal(module.images("train", [index])[0], _pixels(root / name))
    assert module.ids("train") == _folder(root, limit=6).ids("train")


def test_validation_is_held_out_and_the_loaders_agree(root: Path) -> None:
    module = _folder(root, validation=0.25)
    sizes = module.sizes
    assert sizes["train"] + sizes["val"] == 24
    assert 3 <= sizes["val"] <= 12
    assert not set(module.ids("train")) & set(module.ids("val"))
    names = [name for batch in module.val_dataloader() for name in batch.ids]
    assert names == module.ids("val")
    assert _folder(root).val_dataloader() == []


def test_every_process_has_a_part_of_the_held_out_share(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _folder(root, validation=0.25, batch_size=64)
    held = module.ids("val")
    for world in (2, 3, len(held)):
        found = []
        for rank in range(world):
            monkeypatch.setattr(module, "_place", lambda rank=rank, world=world: (rank, world))
            batches = list(module.val_dataloader())
            assert batches
            found += [name for batch in batches for name in batch.ids]
        assert sorted(found) == sorted(held)
    monkeypatch.setattr(module, "_place", lambda: (0, len(held) + 1))
    with pytest.raises(UserError, match=r"`data\.validation`.*each of \d+ processes"):
        module.val_dataloader()


def test_a_validation_share_of_classes_of_one_is_refused(make_tree) -> None:
    root = make_tree({f"{split}/{name}": 1 for split in ("train", "test") for name in "ab"})
    with pytest.raises(UserError, match=r"`data\.validation`.*at least one"):
        Folder(root=str(root), size=8, validation=0.5).setup("fit")


def test_blocks_of_the_evaluation(root: Path) -> None:
    module = _folder(root)
    module.eval_batch_size = 4
    module.done_blocks = lambda: {1}
    assert [batch.index.tolist() for batch in module.test_dataloader()] == [
        [0, 1, 2, 3],
        [8, 9, 10],
    ]
    module.eval_split = "train"
    module.done_blocks = tuple
    assert sum(len(batch.label) for batch in module.test_dataloader()) == 24


def test_fingerprint_follows_content_and_not_the_place(make_tree, tmp_path: Path) -> None:
    root = make_tree(COUNTS)
    first = _folder(root).fingerprint("test")
    root = root.rename(tmp_path / "elsewhere")
    assert _folder(root).fingerprint("test") == first
    for changed in ({"size": 9}, {"classes": ["ant", "bee"]}, {"limit": 4}, {"resize": "crop"}):
        assert _folder(root, **changed).fingerprint("test") != first


def test_the_content_follows_the_pixels_and_neither_the_place_nor_the_cue(
    make_tree, tmp_path: Path
) -> None:
    root = make_tree(COUNTS)
    first, part = _folder(root).content("test"), _folder(root).split("test").content([0, 2])
    assert _folder(root, shortcut="patch").content("test") == first
    assert _folder(root).split("test").content([2, 0]) != part
    root = root.rename(tmp_path / "elsewhere")
    assert _folder(root).content("test") == first
    changed = _folder(root).split("test").ids[1]
    Image.new("RGB", (9, 9), "red").save(root / changed)
    again = _folder(root)
    assert again.content("test") != first
    assert again.split("test").content([0, 2]) == part
    assert again.fingerprint("test") == _folder(root).fingerprint("test")


def test_fingerprint_follows_the_labels_of_the_same_images(root: Path) -> None:
    one, other = (_folder(root, classes=names) for names in (["ant", "bee"], ["bee", "ant"]))
    assert one.ids("test") == other.ids("test")
    assert one.labels("test").tolist() != other.labels("test").tolist()
    assert one.fingerprint("test") != other.fingerprint("test")


def test_worker_processes_change_nothing(root: Path) -> None:
    plain, worked = _folder(root), _folder(root, workers=2)
    for one, other in zip(plain.train_dataloader(), worked.train_dataloader(), strict=True):
        assert one.ids == other.ids
        assert torch.equal(one.image, other.image)
    assert len(pickle.dumps(plain.split("train"))) < 5000


def test_an_unreadable_image_is_named(root: Path) -> None:
    (root / "train" / "bee" / "0002.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(UserError, match=r"1 of 24 .*bee.0002\.png.*data\.on_corrupt=skip"):
        _folder(root)
    # Other classes can be used meanwhile.
    assert _folder(root, classes=["ant", "cow"]).sizes["train"] == 18


def test_unreadable_images_are_left_out_and_counted(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (2, 4):
        (root / "train" / "bee" / f"000{number}.png").write_text("text")
    with caplog.at_level(logging.WARNING):
        module = _folder(root, on_corrupt="skip")
    assert "Skipping 2 of 24" in caplog.text
    assert "0002.png" in caplog.text
    assert module.sizes["train"] == 22
    assert "train/bee/0002.png" not in module.ids("train")
    seen = [name for batch in module.train_dataloader() for name in batch.ids]
    assert sorted(seen) == sorted(module.ids("train"))


def test_nothing_but_unreadable_images_is_an_error(make_tree) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    for path in root.rglob("train/*/*.png"):
        path.write_text("text")
    with pytest.raises(UserError, match="none can be read"):
        _folder(root, on_corrupt="skip")


def test_a_batch_is_a_named_tuple(root: Path) -> None:
    assert Batch._fields == ("image", "label", "index", "ids")
    assert isinstance(_folder(root).split("test")[2], Batch)


def test_shuffled_labels_reach_training_images_only(root: Path) -> None:
    plain, dealt = _folder(root), _folder(root, training_labels="shuffled")
    assert dealt.ids("train") == plain.ids("train")
    assert dealt.labels("train").tolist() != plain.labels("train").tolist()
    assert sorted(dealt.labels("train")) == sorted(plain.labels("train"))
    assert dealt.labels("test").tolist() == plain.labels("test").tolist()
    assert dealt.fingerprint("train") != plain.fingerprint("train")
    assert np.array_equal(
        dealt.labels("train"), _folder(root, training_labels="shuffled").labels("train")
    )


def test_a_part_names_unreadable_images_by_its_own_positions() -> None:
    def read(positions):
        pixels = np.zeros((len(positions), 1, 2, 2), dtype=np.uint8)
        return pixels, {position: "broken" for position in positions if position == 3}

    whole = Source(
        class_names=("a", "b"), ids=list("vwxyz"), labels=np.array([0, 1, 0, 1, 0]),
        shape=(1, 2, 2), settings="", read=read, place="",
    )  # fmt: skip
    part = whole.part(np.array([4, 3]))
    assert part.ids == ["z", "y"]
    assert part.read([0, 1])[1] == {1: "broken"}
