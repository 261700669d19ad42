"""Which of the trainings on the disk a configuration means."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from saliency_lab.errors import UserError
from saliency_lab.training.lookup import classifier_of, training_command
from saliency_lab.training.origin import require_no_contradiction

MODEL = {"name": "basic_cnn", "_target_": "saliency_lab.models.network.network", "arguments": None}
STOPPING = {"_target_": "saliency_lab.training.stopping.early_stopping", "patience": 3}


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_root": str(tmp_path / "outputs"),
        "ckpt": None,
        "run": None,
        "data": {"name": "shapes", "limit": None},
        "model": MODEL,
        "optimizer": {"lr": 0.001},
        "scheduler": {"_target_": "constant"},
        "callback": {},
        "trainer": {"max_epochs": 2},
        "seed": 42,
    }


def with_arguments(config: dict[str, Any], arguments: object) -> dict[str, Any]:
    return {**config, "model": {**config["model"], "arguments": arguments}}


@pytest.fixture
def trained(tmp_path: Path, classifier_file: Path):
    """A finished training of these settings, in a directory of that name."""

    def made(name: str, config: dict[str, Any]) -> Path:
        directory = tmp_path / "outputs" / "train" / "shapes" / "basic_cnn" / name
        (directory / "checkpoints").mkdir(parents=True)
        stored = copy.deepcopy({**config, "task": "train"})
        (directory / "config.yaml").write_text(yaml.safe_dump(stored))
        (directory / "summary.json").write_text(json.dumps({"status": "finished"}))
        (directory / "checkpoints" / "last.ckpt").hardlink_to(classifier_file)
        return directory

    return made


def found(config: dict[str, Any]) -> str:
    return str(Path(classifier_of(config, ())["path"]).parent.parent.name)


def test_a_callback_or_an_argument_more_is_another_training(config, trained) -> None:
    trained("stopped", {**config, "callback": STOPPING})
    trained("small-patches", with_arguments(config, {"patch_size": 4}))
    with pytest.raises(UserError, match=r"found none; train one.*already trained.*small-patches"):
        found(config)
    with pytest.raises(UserError, match="found none; train one"):
        found(with_arguments(config, {"patch_size": 8}))
    assert found({**config, "callback": STOPPING}) == "stopped"
    assert found(with_arguments(config, {"patch_size": 4})) == "small-patches"
    trained("plain", config)
    assert found(config) == "plain"
    assert found(with_arguments(config, {})) == "plain"


def test_of_a_time_before_callbacks_and_arguments(config, trained) -> None:
    before = {key: value for key, value in config.items() if key != "callback"}
    before["model"] = {key: value for key, value in MODEL.items() if key != "arguments"}
    trained("old", before)
    assert found(config) == "old"
    with pytest.raises(UserError, match="found none; train one"):
        found({**config, "callback": STOPPING})


def test_several_say_why_they_are_several(config, trained) -> None:
    for limit in (100, 200):
        trained(f"limit-{limit}", {**config, "data": {"name": "shapes", "limit": limit}})
    with pytest.raises(UserError, match="2 match, none of them trained on all images; choose one"):
        found(config)
    for name in ("one", "two"):
        trained(name, config)
    with pytest.raises(UserError, match=r"2 match; choose one: ckpt='.*one'; ckpt='.*two'"):
        found(config)


def test_a_named_training_is_not_contradicted(config, trained) -> None:
    plain = trained("plain", config)
    small = with_arguments(config, {"patch_size": 4})
    patches = trained("small-patches", small)
    for word in ("model", "model.arguments", "model.arguments.patch_size"):
        require_no_contradiction(small, patches, [word])
        with pytest.raises(UserError, match=r"Expected `model.arguments` .*which is None"):
            require_no_contradiction(small, plain, [word])
        with pytest.raises(UserError, match="patch_size"):
            require_no_contradiction(with_arguments(config, {"patch_size": 8}), patches, [word])
    with pytest.raises(UserError, match="Expected `callback`"):
        require_no_contradiction({**config, "callback": STOPPING}, plain, ["callback"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "data=cifar10", "method=active"], "data=cifar10"),
        (["evaluate", "--cfg", "job", "--resolve", "data=cifar10"], "data=cifar10"),
        (["-c", "job", "-p", "data", "seed=3", "run=here"], "seed=3"),
        (["compare", "--config-dir", "my own", "a=x", "model=mine"],
         "--config-dir 'my own' model=mine"),
    ],
)  # fmt: skip
def test_the_training_that_a_command_line_asks_for(words, expected, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["saliency-lab", *words])
    assert training_command() == f"python -m saliency_lab train {expected}"


def test_the_command_line_does_not_contradict_the_checkpoint(config, trained) -> None:
    path = trained("plain", config)
    chosen = {**with_arguments(config, {"patch_size": 8}), "ckpt": str(path)}
    assert classifier_of(chosen, ())["directory"] == str(path)
    for word in ("model", "model.arguments"):
        with pytest.raises(UserError, match=r"whose `model.arguments` is None, but got \{"):
            classifier_of(chosen, [word])
