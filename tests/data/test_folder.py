from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.data.folder import Folder
from saliency_lab.data.listing import existing_root, image_files
from saliency_lab.errors import UserError


@pytest.mark.parametrize("name", ["test", "val"])
def test_split_folders(make_tree, name: str) -> None:
    root = make_tree({"train/b": 2, "train/a": 3, f"{name}/a": 1, f"{name}/b": 2})
    module = Folder(root=str(root), size=8)
    assert module.class_names == ("a", "b")
    assert module.sizes == {"train": 5, "test": 3}
    assert module.ids("test")[0] == f"{name}/a/0000.png"


def test_class_folders_alone_are_divided_class_by_class(make_tree) -> None:
    root = make_tree({"cat": 30, "dog": 60}, size=(2, 2))
    module = Folder(root=str(root), size=2, test_share=0.3)
    assert sum(module.sizes.values()) == 90
    tested = np.bincount(module.labels("test"))
    assert 3 <= tested[0] <= 16
    assert 8 <= tested[1] <= 29
    assert not set(module.ids("train")) & set(module.ids("test"))
    assert module.ids("test") == Folder(root=str(root), size=2, test_share=0.3).ids("test")
    other = Folder(root=str(root), size=2, test_share=0.3, seed=1)
    assert module.ids("test") != other.ids("test")


def test_a_folder_that_grows_keeps_every_image_on_its_side(make_tree) -> None:
    root = make_tree({"cat": 30, "dog": 30}, size=(2, 2))
    before = Folder(root=str(root), size=2)
    sides = {name: set(before.ids(name)) for name in ("train", "test")}
    make_tree({"cat/later": 40, "dog": 35, "ant": 20}, size=(2, 2), seed=1)
    after = Folder(root=str(root), size=2)
    for name in ("train", "test"):
        assert sides[name] < set(after.ids(name))


def test_validation_images_stay_so_in_a_folder_that_grows(make_tree) -> None:
    root = make_tree({"train/cat": 40, "train/dog": 40, "test/cat": 1, "test/dog": 1}, size=(2, 2))
    before = Folder(root=str(root), size=2, validation=0.3)
    train, val = (set(before.ids(name)) for name in ("train", "val"))
    make_tree({"train/cat/later": 40}, size=(2, 2), seed=1)
    after = Folder(root=str(root), size=2, validation=0.3)
    assert train < set(after.ids("train"))
    assert val < set(after.ids("val"))


@pytest.mark.parametrize("layout", [("train/", "test/"), ("",)])
def test_an_empty_class_folder_is_left_out_where_that_is_asked_for(make_tree, caplog, layout):
    root = make_tree({f"{split}{name}": 4 for split in layout for name in ("cat", "dog")})
    for split in layout:
        (root / split / "fox").mkdir()
    with pytest.raises(UserError, match="class 'fox'"):
        Folder(root=str(root), size=8).setup("fit")
    module = Folder(root=str(root), size=8, on_corrupt="skip")
    assert module.class_names == ("cat", "dog")
    assert sum(module.sizes.values()) == 8 * len(layout)
    assert "No image in" in caplog.text
    assert "fox" in caplog.text


def test_a_class_without_test_images_is_kept_where_that_is_asked_for(make_tree) -> None:
    root = make_tree({"train/cat": 2, "train/dog": 2, "test/cat": 1})
    (root / "test" / "dog").mkdir()
    module = Folder(root=str(root), size=8, on_corrupt="skip")
    assert module.class_names == ("cat", "dog")
    assert module.ids("test") == ["test/cat/0000.png"]


def test_one_class_alone_is_refused(make_tree) -> None:
    root = make_tree({"train/cat": 2, "test/cat": 2})
    assert "`data.root` to give at least two classes, but got 'cat'" in _message(root=str(root))


def test_subfolders_hidden_files_and_other_files(make_tree) -> None:
    root = make_tree({"train/a/deep": 2, "train/b": 1, "test/a": 1, "test/b": 1, "train/.git": 1})
    (root / "train" / "b" / "notes.txt").write_text("not an image")
    (root / "train" / "b" / "._0000.png").write_text("a resource fork")
    Image.new("RGB", (8, 8)).save(root / "train" / "b" / "LOUD.JPG")
    module = Folder(root=str(root), size=8)
    assert module.ids("train") == [
        "train/a/deep/0000.png",
        "train/a/deep/0001.png",
        "train/b/0000.png",
        "train/b/LOUD.JPG",
    ]


def _message(**settings: object) -> str:
    with pytest.raises(UserError) as caught:
        Folder(size=8, **settings).setup("fit")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_with_a_root_is_said(make_tree, tmp_path: Path) -> None:
    assert "`data.root`" in _message()
    missing = _message(root=str(tmp_path / "gone"))
    assert "`data.root` to be an existing folder" in missing
    assert "gone" in missing
    (tmp_path / "empty").mkdir()
    assert "one folder per class" in _message(root=str(tmp_path / "empty"))

    root = make_tree({"train/a": 1, "train/b": 1, "test/a": 1})
    assert "got 'b'" in _message(root=str(root))
    (root / "test" / "b").mkdir()
    module = Folder(root=str(root), size=8)
    with pytest.raises(UserError, match=r"class 'b', but .*test/b holds no image"):
        module.sizes  # noqa: B018
    (root / "train" / "b" / "0000.png").unlink()
    empty = _message(root=str(root))
    assert "train/b holds no image" in empty
    assert "`data.root`" in empty


def test_train_without_test(make_tree) -> None:
    assert "a folder named test or val" in _message(root=str(make_tree({"train/a": 1})))


def test_unknown_class(make_tree) -> None:
    root = make_tree({"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    message = _message(root=str(root), classes=["cat", "dgo"])
    assert "`data.classes`" in message
    assert "Did you mean 'dog'?" in message


def test_a_link_to_nowhere_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dead.png").symlink_to(tmp_path / "gone.png")
    assert list(image_files(tmp_path)) == [(str(tmp_path / "dead.png"), "")]


def test_a_class_s_name_is_text(make_tree) -> None:
    name = os.fsdecode(b"caf\xe9")
    root = make_tree({f"{split}/{one}": 1 for split in ("train", "test") for one in ("a", name)})
    assert r"but got b'caf\xe9' in" in _message(root=str(root))


def test_links_that_lead_in_a_circle_are_told(make_tree) -> None:
    root = make_tree({f"{split}/{name}": 1 for split in ("train", "test") for name in "ab"})
    (root / "train" / "a" / "loop").symlink_to(root / "train" / "a")
    message = _message(root=str(root))
    assert "`data.root` to hold readable folders" in message
    assert "symbolic links" in message


def test_empty_text_is_not_the_current_folder() -> None:
    with pytest.raises(UserError, match="but got ''"):
        existing_root("")
