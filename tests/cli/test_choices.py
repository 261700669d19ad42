"""Lists for groups of one choice: views become one run of several views, others are refused."""

from __future__ import annotations

import json

import pytest

from saliency_lab.cli.choices import single_choices
from saliency_lab.errors import UserError


def test_a_list_of_views_is_the_views_of_one_run() -> None:
    words = ["view=[active,original]", "view=active", "view=[active],[original,positive]"]
    assert single_choices(words) == [
        "view.names=[active,original]",
        "view=active",
        "view.names=[active],[original,positive]",
    ]
    untouched = ["evaluator=[deletion,panel]", "-m", "data.classes=[cat,dog]", "model.name=x"]
    assert single_choices(untouched) == untouched


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("method=[active,original]", "-m method=active,original"),
        ("model=[resnet18,vgg16]", "Expected `model` to be one choice"),
        ("view=[all,active]", "view=all has several views by itself"),
    ],
)
def test_other_lists_are_refused(word: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        single_choices([word])
    assert said in str(error.value)


def test_every_view_of_the_list_is_measured(command, classifier_file, tmp_path) -> None:
    outcome = command(
        "evaluate", "method=gradient", "view=[original,active]", f"ckpt={classifier_file}",
        "data.train_images=20", "data.test_images=12", "trainer=cpu", "logger=none",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.glob("outputs/evaluate/**/summary.json")
    assert json.loads(path.read_text())["views"] == ["original", "active"]
    refused = command("evaluate", "method=[active,original]")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: Expected `method` to be one choice")
