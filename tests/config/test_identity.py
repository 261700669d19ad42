from __future__ import annotations

import copy
import random

import pytest

from saliency_lab.config.content import component_source
from saliency_lab.config.identity import (
    NOT_IDENTITY,
    conflicts,
    decides,
    differences,
    evaluator_label,
    method_label,
    run_directory,
    with_text_names,
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


def test_processes_count_where_each_takes_a_batch_of_its_own():
    each = {"trainer__batch": "per_process"}
    assert name(**each, trainer__devices=2) != name(**each)
    assert name(trainer__batch="global", trainer__devices=2) == name(trainer__batch="global")
    stored = changed(**each, trainer__devices=2)
    found = conflicts(changed(**each, trainer__devices=4), stored)
    assert found == [("trainer.devices", 2, 4)]


def test_lists_flags_and_nothing():
    assert "+optimizer.betas-0.8_0.9-" in name(optimizer__betas=[0.8, 0.9])
    assert name(model__pretrained=True).endswith("model.pretrained-true")
    alike = ["a_b", ["a", "b"], [["a"], "b"], None, "null", True, "true", "1", 1, 2]
    assert len({name(data__limit=value) for value in alike}) == len(alike)
    assert name(data__limit=2.0) == name(data__limit=2)


def test_group_choices_are_named_first():
    chosen = {"scheduler": "cosine", "optimizer": "sgd"}
    path = run_directory(changed(optimizer__lr=0.2), DEFAULTS, chosen)
    assert path.name == "seed-42+optimizer-sgd+scheduler-cosine+optimizer.lr-0.2"


def test_long_names_are_cut_and_stay_apart():
    keys = {f"data__key{number}": "x" * 20 for number in range(20)}
    one, other = name(**keys), name(**{**keys, "data__key19": "x" * 19 + "y"})
    assert one != other
    for path in (one, other):
        assert len(path.rpartition("/")[2]) <= 200


@pytest.mark.parametrize("given", [2024, 0.5, float("nan"), True])
@pytest.mark.parametrize("group", ["data", "model", "method"])
def test_a_number_is_a_name_like_its_text(group, given):
    view = {"names": ["original"]}
    config = changed(method={"name": "gradient"}, view=view, **{f"{group}__name": given})
    text = with_text_names(config)
    assert text[group]["name"] == str(given)
    assert run_directory(text, DEFAULTS) == run_directory(config, DEFAULTS)
    # Runs that have the number in their config.yaml are still known.
    assert conflicts(text, config) == conflicts(config, text) == []


@pytest.mark.parametrize("wrong", [["a"], {"a": 1}])
@pytest.mark.parametrize("group", ["data", "model", "method"])
def test_what_is_no_name_is_refused(group, wrong):
    config = changed(method={"name": "gradient"}, view={"names": ["original"]})
    config[group]["name"] = wrong
    with pytest.raises(UserError, match=rf"`{group}.name` to be text, but got"):
        run_directory(config, DEFAULTS)


def test_characters_that_shells_read_are_replaced_and_stay_apart():
    names = {name(model__weights=path) for path in ("/a/b c.pt", "/a_b c.pt", "/a/b_c.pt")}
    assert len(names) == 3
    for path in names:
        assert not set(path) & set(" '\"()[]{}$*?!;&|<>:\\=,~")


@pytest.mark.parametrize("name", ["folder", "arrays", "pasted", "one-of-my-own"])
def test_a_persons_own_files_have_no_identity_but_their_place(name):
    folder = {"name": name, "root": "/a"}
    other = {"name": name, "root": "/b"}
    defaults = {**DEFAULTS, "data": {"name": name, "root": None}}
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
        ("gradient", ["original", "positive", "negative", "active", "inactive"], "all"),
        ("gradient", ["original", "active"], "original+active"),
        ("smoothgrad", ["active"], "smoothgrad-active"),
        ("lime", "all", "lime-all"),
    ],
)
def test_method_and_view_are_one_folder(method, views, label):
    assert method_label({"method": {"name": method}, "view": {"names": views}}) == label


EVALUATION = {
    **DEFAULTS,
    "task": "evaluate",
    "method": {
        "name": "gradient",
        "_target_": "saliency_lab.attribution.methods.gradient.gradient",
    },
    "view": {"names": ["active"], "channels": "max", "competitors": None},
    "engine": {"precision": "fp32", "screen": "off", "compile": False, "scores_batch": None},
    "evaluator": {"deletion": {"_target_": "x.y", "protocol": "threshold"}},
    "classifier": {"sha256": "ab" * 32, "path": "/here/last.ckpt", "directory": None},
    "labels": {"deletion": "deletion"},
    "sources": {},
    "split": "test",
    "maps": "discard",
    "examples": 50,
    "on_nonfinite": "error",
    "resamples": 1000,
    "block_size": None,
    "ckpt": None,
    "run": None,
}
# What may differ between two evaluations with equal numbers, spelled out.
FREE = {
    "output_root": ["elsewhere"],
    "overwrite": [True],
    "ckpt": ["/here"],
    "run": ["/here"],
    "maps": ["keep"],
    "examples": [0, 7],
    "block_size": [3, 100],
    "data.root": ["/images"],
    "data.workers": [4],
    "data.batch_size": [7],
    "optimizer.lr": [0.5],
    "trainer.devices": [2],
    "trainer.max_epochs": [3],
    "model.pretrained": [True],
    "engine.compile": [True],
    "engine.scores_batch": [8],
    "classifier.path": ["/there/last.ckpt"],
    "evaluator.deletion.protocol": ["standard"],
    "labels.deletion": ["deletion+protocol-standard"],
}
DECIDING = {
    "seed": [0, 7],
    "split": ["train"],
    "on_nonfinite": ["skip"],
    "resamples": [10],
    "data.name": ["cifar10"],
    "data.limit": [10, 100, "10"],
    "method.name": ["smoothgrad"],
    "method.samples": [3, 30],
    "view.names": [["positive"], ["active", "positive"]],
    "view.competitors": [1, 2],
    "engine.precision": ["bf16"],
    "engine.screen": ["int8"],
    "classifier.sha256": ["cd" * 32],
    "sources.method": ["0123456789", "9876543210"],
    "sources.numbers": [2],
}


def placed(config, path, value):
    *groups, last = path.split(".")
    changed = copy.deepcopy(config)
    node = changed
    for group in groups:
        node = node[group]
    node[last] = value
    return changed


@pytest.mark.parametrize("trial", range(300))
def test_two_evaluations_share_a_directory_if_and_only_if_their_numbers_are_equal(trial):
    draw = random.Random(trial)
    pair, deciding = [], []
    for _ in range(2):
        config, decided = copy.deepcopy(EVALUATION), {}
        for path in draw.sample(sorted(FREE), draw.randint(0, 3)):
            config = placed(config, path, draw.choice(FREE[path]))
        for path in draw.sample(sorted(DECIDING), draw.choice([0, 0, 1, 1, 2])):
            decided[path] = draw.choice(DECIDING[path])
            config = placed(config, path, decided[path])
        pair.append(str(run_directory(config, EVALUATION)))
        deciding.append(decided)
    assert (pair[0] == pair[1]) == (deciding[0] == deciding[1]), (pair, deciding)


def test_every_key_is_known_to_decide_or_not():
    """A new key of the configuration is put on one of the two lists by whoever adds it."""
    for path in (*FREE, *DECIDING):
        for value in (FREE | DECIDING)[path]:
            same = run_directory(placed(EVALUATION, path, value), EVALUATION)
            assert (same == run_directory(EVALUATION, EVALUATION)) == (path in FREE), path


def test_whole_numbers_are_one_number_in_names_with_a_digest_too():
    one, other = (name(optimizer__betas=[0.5, value], seed=1) for value in (1, 1.0))
    assert one == other != name(optimizer__betas=[0.5, 0.999], seed=1)


def test_ignored_keys_are_these():
    assert set(NOT_IDENTITY) == {
        "task", "output_root", "overwrite", "continues", "hydra", "logger", "ckpt", "run",
        "classifier", "labels", "evaluator", "alpha", "tolerance", "least", "kind", "correction",
        "examples", "overlay", "block_size", "maps", "data.workers",
        "data.cache_dir", "data.root", "data.on_corrupt", "trainer.accelerator", "trainer.devices",
        "trainer.num_nodes", "trainer.strategy", "trainer.threads", "trainer.progress",
        "trainer.timeout", "engine.frozen_copy", "engine.compile", "engine.calibration",
        "engine.maps_batch", "engine.scores_batch",
    }  # fmt: skip


def test_a_component_outside_the_package_is_known_by_its_text(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "mine_for_identity.py"
    module.write_text("def bright(model, images, targets): return images.mean(1)")
    component = {"_target_": "mine_for_identity.bright", "power": 2}
    before = component_source(component)
    assert before is not None
    module.write_text("def bright(model, images, targets): return images.amax(1)")
    assert component_source(component) != before
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"one")
    named = {"_target_": "saliency_lab.models.network.network", "weights": str(weights)}
    first = component_source(named)
    weights.write_bytes(b"two")
    assert first != component_source(named)
    assert component_source({"_target_": "saliency_lab.models.network.network"}) is None


def test_the_trainer_of_support_models_counts_and_that_of_a_finished_classifier_does_not():
    usual = {**EVALUATION, "trainer": {"precision": "32-true", "max_epochs": 50, "threads": None}}
    gad = {"_target_": "saliency_lab.attribution.methods.gad.gad", "name": "gad"}

    def place(method, **trainer):
        mine = {**usual, "method": method, "trainer": {**usual["trainer"], **trainer}}
        return run_directory(mine, {**usual, "method": method})

    plain = {"_target_": "mine.own", "name": "own"}
    assert place(plain, precision="bf16-mixed") == place(plain)
    assert place(gad, precision="bf16-mixed") != place(gad)
    assert place(gad, max_epochs=3, threads=2) == place(gad)


def test_files_of_maps_count_by_content_and_settings_of_that_name_by_value(tmp_path):
    file = {"_target_": "saliency_lab.attribution.methods.file.file_maps", "ids": None}
    places = {
        run_directory({**EVALUATION, "method": {**file, "name": "file", "maps": path}}, EVALUATION)
        for path in ("a.npy", "b.npy")
    }
    assert len(places) == 1
    own = {"_target_": "mine.own", "name": "own"}
    places = {
        run_directory({**EVALUATION, "method": {**own, "maps": value}}, EVALUATION)
        for value in (1, 2)
    }
    assert len(places) == 2
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"one")
    before = component_source({**file, "maps": str(folder)})
    assert before is not None
    (folder / "1.png").rename(folder / "2.png")
    renamed = component_source({**file, "maps": str(folder)})
    (folder / "2.png").write_bytes(b"two")
    assert len({before, renamed, component_source({**file, "maps": str(folder)})}) == 3


def test_an_evaluator_is_labelled_by_what_is_not_default():
    usual = {"_target_": "x.y", "protocol": "threshold", "fills": "by_view"}
    assert evaluator_label("deletion", usual, usual, None) == "deletion"
    standard = {**usual, "protocol": "standard"}
    assert evaluator_label("deletion", standard, usual, None) == "deletion+protocol-standard"
    assert evaluator_label("mine", usual, usual, "0123456789") == "mine+source-0123456789"


def test_differences_are_by_dotted_path():
    config = changed(data__limit=3, seed=1)
    assert differences(config, DEFAULTS) == {"data.limit": 3, "seed": 1}


def test_conflicts_are_about_what_decides_the_outcome():
    stored = changed(optimizer__lr=0.5, data__workers=9, data__gone=1)
    assert conflicts(changed(data__new=2), stored) == [("optimizer.lr", 0.5, 0.001)]


def test_a_setting_that_came_later_is_what_earlier_runs_were_made_with():
    stored = changed()  # of a time without the setting
    assert conflicts(changed(model__zero_init_last=None), stored) == []
    found = conflicts(changed(model__zero_init_last=False), stored)
    assert found == [("model.zero_init_last", None, False)]
    assert conflicts(changed(), changed(model__zero_init_last=None)) == []


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
