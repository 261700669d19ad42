from __future__ import annotations

import pytest

from saliency_lab.config.identity import (
    conflicts,
    decides,
    differences,
    method_label,
    run_directory,
)
from saliency_lab.errors import UserError

DEFAULTS = {
    "task": "train",
    "seed": 42,
    "output_root": "outputs",
    "data": {"name": "shapes", "root": None, "limit": None, "batch_size": 128, "workers": 0},
    "model": {"name": "basic_cnn", "pretrained": False},
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.999]},
    "trainer": {"devices": 1, "max_epochs": 50},
}


def changed(**keys):
    """The defaults with some keys, `group__key=value`, changed."""
    config = {key: dict(v) if isinstance(v, dict) else v for key, v in DEFAULTS.items()}
    for path, value in keys.items():
        group, _, key = path.partition("__")
        if key:
            config[group][key] = value
        else:
            config[group] = value
    return config


def name(**keys):
    return str(run_directory(changed(**keys), DEFAULTS))


def test_defaults():
    assert name() == "train/shapes/basic_cnn/seed-42"


def test_what_differs_is_named_in_one_order():
    expected = "train/shapes/basic_cnn/seed-7+data.limit-100+optimizer.lr-0.01"
    assert name(seed=7, data__limit=100, optimizer__lr=0.01) == expected
    assert name(optimizer__lr=0.01, data__limit=100, seed=7) == expected


@pytest.mark.parametrize(
    "keys",
    [
        {"output_root": "elsewhere"},
        {"data__root": "/here"},
        {"data__workers": 4},
        {"trainer__devices": 2},
    ],
)
def test_how_and_where_a_run_happens_is_not_named(keys):
    assert name(**keys) == name()


def test_lists_flags_and_nothing():
    assert name(optimizer__betas=[0.8, 0.9]).endswith("optimizer.betas-0.8_0.9")
    assert name(model__pretrained=True).endswith("model.pretrained-true")


def test_group_choices_are_named_first():
    chosen = {"scheduler": "cosine", "optimizer": "sgd"}
    path = run_directory(changed(optimizer__lr=0.2), DEFAULTS, chosen)
    assert path.name == "seed-42+optimizer-sgd+scheduler-cosine+optimizer.lr-0.2"


def test_long_names_are_cut_and_stay_apart():
    keys = {f"data__key{number}": "x" * 20 for number in range(20)}
    one, other = name(**keys), name(**{**keys, "data__key19": "x" * 19 + "y"})
    assert one != other
    for path in (one, other):
        assert len(path.rpartition("/")[2]) <= 120


def test_characters_that_shells_read_are_replaced_and_stay_apart():
    names = {name(model__weights=path) for path in ("/a/b c.pt", "/a_b c.pt", "/a/b_c.pt")}
    assert len(names) == 3
    for path in names:
        assert not set(path) & set(" '\"()[]{}$*?!;&|<>:\\=,~")


def test_a_folder_of_class_folders_has_no_identity_but_its_place():
    folder = {"name": "folder", "root": "/a"}
    other = {"name": "folder", "root": "/b"}
    defaults = {**DEFAULTS, "data": {"name": "folder", "root": None}}
    one, two = (run_directory({**DEFAULTS, "data": data}, defaults) for data in (folder, other))
    assert one != two


@pytest.mark.parametrize("group", ["data", "model"])
def test_a_component_without_a_name_is_refused(group):
    config = {**DEFAULTS, group: {"name": "???"}}
    with pytest.raises(UserError, match=f"`{group}.name` to be given"):
        run_directory(config, config)


@pytest.mark.parametrize(
    ("method", "views", "label"),
    [
        ("gradient", ["active"], "active"),
        ("gradient", ["original", "positive", "negative", "active", "inactive"], "paper"),
        ("gradient", ["original", "active"], "original+active"),
        ("smoothgrad", ["active"], "smoothgrad-active"),
        ("lime", "all", "lime-all"),
    ],
)
def test_method_and_view_are_one_folder(method, views, label):
    assert method_label({"method": {"name": method}, "view": {"names": views}}) == label


def test_differences_are_by_dotted_path():
    config = changed(data__limit=3, seed=1)
    assert differences(config, DEFAULTS) == {"data.limit": 3, "seed": 1}


def test_conflicts_are_about_what_decides_the_outcome():
    stored = changed(optimizer__lr=0.5, data__workers=9, data__gone=1)
    assert conflicts(changed(data__new=2), stored) == [("optimizer.lr", 0.5, 0.001)]


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("trainer=ddp", False),
        ("trainer.devices=4", False),
        ("logger=none", False),
        ("+data.root=/images", False),
        ("trainer.max_epochs=10", True),
        ("trainer.precision=bf16-mixed", True),
        ("data.limit=300", True),
        ("engine.screen=int8", True),
        ("model=resnet18", True),
    ],
)
def test_words_that_change_what_comes_out_are_told_from_the_others(word, answer):
    assert decides(word) is answer
