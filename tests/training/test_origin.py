"""`run=DIR` on the command line: what is taken from the training, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from saliency_lab.errors import UserError
from saliency_lab.training.origin import (
    of_training,
    require_no_contradiction,
    stored_settings,
    with_origin,
)

STORED = {
    "task": "train",
    "seed": 7,
    "data": {
        "name": "cifar10", "_target_": "saliency_lab.data.cifar10.Cifar10", "root": "/my data",
        "classes": ["cat", "dog"], "limit": 100, "augment": "basic", "batch_size": 128,
        "workers": 4, "seed": 7, "shortcut_share": 0.9,
    },
    "model": {"name": "resnet18"},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "scheduler": {"name": "cosine"},
    "trainer": {"max_epochs": 30, "devices": 8, "precision": "32-true"},
}  # fmt: skip


@pytest.fixture
def training(tmp_path: Path) -> Path:
    return stored(tmp_path / "seed-7", STORED)


def stored(directory: Path, config: dict[str, Any]) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def test_what_is_not_usual_of_the_data_is_said(training: Path) -> None:
    words = with_origin("evaluate", ["method=active", f"run={training}"])
    assert words[:3] == ["method=active", f"run={training}", "data=cifar10"]
    assert sorted(words[3:]) == [
        "++data.augment=basic",
        "++data.classes=[cat,dog]",
        "++data.root='/my data'",
        "++data.seed=7",
        "seed=7",
    ]


def test_what_the_command_line_says_itself_is_left_to_it(training: Path) -> None:
    given = ["data.root=/there", "seed=1", "data=cifar10", f"run={training}", "data.limit=5"]
    added = [word for word in with_origin("explain", given) if word not in given]
    assert {word.partition("=")[0] for word in added} == {
        "++data.augment", "++data.classes", "++data.seed",
    }  # fmt: skip


def test_a_second_time_adds_nothing(training: Path) -> None:
    once = with_origin("evaluate", [f"run={training}"])
    assert with_origin("evaluate", once) == once


@pytest.mark.parametrize("words", [["run=null"], ["data=cifar10"], []])
def test_no_origin(words: list[str]) -> None:
    assert with_origin("evaluate", words) == words
    assert with_origin("train", ["run=DIR"]) == ["run=DIR"]


def test_a_file_of_ones_own_goes_by_the_name_in_the_path(tmp_path: Path) -> None:
    directory = stored(tmp_path / "seed-7+data-my_cifar+trainer.max_epochs-3", STORED)
    assert "data=my_cifar" in with_origin("evaluate", [f"run={directory}"])


def test_other_data_is_refused(training: Path) -> None:
    with pytest.raises(UserError, match=r"`data` .* is 'cifar10', but got 'shapes'; leave it out"):
        with_origin("evaluate", ["data=shapes", f"run={training}"])


def test_no_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no readable config\.yaml"):
        with_origin("evaluate", [f"run={tmp_path / 'nowhere'}"])
    other = stored(tmp_path / "other", {**STORED, "task": "evaluate"})
    with pytest.raises(UserError, match="is one of 'evaluate'"):
        with_origin("evaluate", [f"run={other}"])
    with pytest.raises(UserError, match="ckpt=DIR,DIR"):
        with_origin("evaluate", ["-m", "run=a,b"])


CONFIG = {**STORED, "data": {**STORED["data"], "limit": 5, "workers": 0}}


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["data", "data.limit", "data.workers", "seed", "method"],
        ["optimizer.lr", "trainer.max_epochs", "trainer"],
    ],
)
def test_what_agrees_may_be_said(training: Path, given: list[str]) -> None:
    require_no_contradiction({**CONFIG, "seed": 1}, training, given)


@pytest.mark.parametrize(
    ("given", "change", "told"),
    [
        ("optimizer.lr", {"optimizer": {"lr": 0.5}}, "`optimizer.lr` .* is 0.1, but got 0.5"),
        ("optimizer", {"optimizer": {"lr": 0.5}}, "`optimizer.lr` .* is 0.1, but got 0.5"),
        ("model", {"model": {"name": "vgg16"}}, "`model.name` .* 'resnet18', but got 'vgg16'"),
        ("trainer.max_epochs", {"trainer": {"max_epochs": 5}}, "is 30, but got 5"),
        ("data.classes", {"data": {"classes": None}}, r"\['cat', 'dog'\], but got None"),
    ],
)
def test_what_contradicts_is_refused(
    training: Path, given: str, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        require_no_contradiction({**CONFIG, **change}, training, [given])
    # A default of the evaluation's own is no contradiction.
    require_no_contradiction({**CONFIG, **change}, training, ["method"])


def test_settings_of_the_training_are_taken_over(training: Path) -> None:
    mine = {
        "task": "evaluate", "seed": 7, "optimizer": {"name": "adamw"}, "scheduler": {},
        "trainer": {"max_epochs": 50, "devices": 2, "threads": 1}, "method": {"name": "lime"},
    }  # fmt: skip
    found = of_training(mine, stored_settings(training))
    assert found["optimizer"] == STORED["optimizer"]
    assert found["scheduler"] == {"name": "cosine"}
    # Where and how fast a run happens is its own.
    assert found["trainer"] == {
        "max_epochs": 30, "devices": 2, "threads": 1, "precision": "32-true",
    }  # fmt: skip
    assert found["method"] == {"name": "lime"}
    assert "callback" not in found


def test_options_of_hydra_stay_where_hydra_takes_them(training: Path) -> None:
    words = ["-m", f"run={training}", "method=active", "--cfg", "job"]
    found = with_origin("evaluate", words)
    assert found[0] == "-m"
    assert found[-3:] == ["method=active", "--cfg", "job"]
    assert f"run={training}" in found
    assert len(found) > len(words)
