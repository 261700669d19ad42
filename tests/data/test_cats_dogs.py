from __future__ import annotations

import pytest

from saliency_lab.data.cats_dogs import CatsDogs
from saliency_lab.errors import UserError


@pytest.mark.parametrize("inner", ["", "/{0}"])
def test_two_splits_in_folders(make_tree, inner: str) -> None:
    places = {
        f"{name}{inner.format(name)}/{animal}": count
        for name, count in (("training_set", 4), ("test_set", 2))
        for animal in ("cats", "dogs")
    }
    module = CatsDogs(root=str(make_tree(places)), size=8)
    module.prepare_data()
    assert module.class_names == ("cat", "dog")
    assert module.sizes == {"train": 8, "test": 4}
    assert module.labels("test").tolist() == [0, 0, 1, 1]


def test_one_split_in_folders_is_divided(make_tree) -> None:
    root = make_tree({"PetImages/Cat": 10, "PetImages/Dog": 5})
    module = CatsDogs(root=str(root), size=8, test_share=0.4)
    assert sum(module.sizes.values()) == 15
    assert set(module.labels("test")) == set(module.labels("train")) == {0, 1}
    assert not set(module.ids("train")) & set(module.ids("test"))
    again = CatsDogs(root=str(root), size=8, test_share=0.4)
    assert again.ids("test") == module.ids("test")


def test_classes_in_the_names_of_files(make_tree) -> None:
    root = make_tree({"train": 6})
    for number, file in enumerate(sorted((root / "train").iterdir())):
        file.rename(file.with_name(f"{'cat' if number < 4 else 'dog'}.{number}.png"))
    module = CatsDogs(root=str(root.parent), size=8, test_share=0.5)
    with pytest.raises(UserError, match="PetImages/Cat"):
        _ = module.sizes
    (root.parent / "cats_dogs").symlink_to(root)
    module = CatsDogs(root=str(root.parent), size=8, test_share=0.5)
    for split, size in module.sizes.items():
        animals = ["cat." if label == 0 else "dog." for label in module.labels(split)]
        assert all(animal in name for animal, name in zip(animals, module.ids(split), strict=True))
        assert 0 < size < 6


def test_a_missing_class_is_named(make_tree) -> None:
    root = make_tree({"training_set/cats": 1, "test_set/cats": 1})
    with pytest.raises(UserError, match="class 'dog'"):
        _ = CatsDogs(root=str(root), size=8).sizes
    with pytest.raises(UserError, match=r"`data\.root`"):
        _ = CatsDogs(size=8).sizes
