"""The task compare as a person runs it: verdict, resuming, widening, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saliency_lab.evaluation.rows.decisions import permutation
from saliency_lab.evaluation.rows.sequences import confidence_sequence
from saliency_lab.models.trained_samples import FACT, sample_digests
from saliency_lab.tasks import compare
from saliency_lab.tasks.pairs import chosen_condition, paired_names
from saliency_lab.tasks.verdicts import verdict_text

DATA = ["data.train_images=20", "data.test_images=60", "trainer.threads=1", "logger=none"]


def only_summary() -> tuple[Path, dict[str, Any]]:
    (path,) = Path("outputs/compare").rglob("summary.json")
    return path.parent, json.loads(path.read_text())


def test_a_comparison_says_what_its_rows_say_and_can_be_widened(command, classifier_file) -> None:
    given = [*DATA, f"ckpt={classifier_file}", "block_size=16", "condition=[black]"]
    given += ["a=gradient/original", "b=sobel"]
    outcome = command("compare", *given, "tolerance=0.9")
    assert outcome.code == 0, outcome.err
    directory, summary = only_summary()
    (pair,) = summary["pairs"]
    assert {key: summary[key] for key in pair} == pair
    assert summary["verdict"] in ("a", "b", "undecided")
    assert summary["condition"] == {"mode": "deletion", "fill": "black"}
    assert summary["images"] <= summary["drawn"] < 60
    assert summary["alpha"] == 0.05
    assert "biased" in summary["remark"]
    rows = pd.read_parquet(directory / "deletion.parquet")
    assert len(rows[rows["map"] == "sobel"].query("fill == 'black'")) == summary["drawn"]
    black = rows[rows["fill"] == "black"].sort_values("drawn")
    assert (
        black.loc[black["map"] == "sobel", "index"].tolist()
        == permutation(60, 42)[: len(black) // 2]
    )
    sides = [
        black.loc[black["map"] == one, "allegiance"].to_numpy() for one in (pair["a"], pair["b"])
    ]
    bounds = confidence_sequence(sides[0] - sides[1], population=60)[summary["images"] - 1]
    # Bounds are searched for: of a longer sequence they are the same up to the search's steps.
    np.testing.assert_allclose([summary["low"], summary["high"]], bounds, atol=2e-4)

    outcome = command("compare", *given, "least=60")
    assert outcome.code == 0, outcome.err
    assert "already drawn" in outcome.out + outcome.err
    _, wide = only_summary()
    assert wide["images"] == wide["drawn"] == 60
    later = pd.read_parquet(directory / "deletion.parquet")
    pd.testing.assert_frame_equal(later.iloc[: len(rows)], rows)
    means = later[later["fill"] == "black"].groupby("map")["allegiance"].mean()
    assert wide["difference"] == pytest.approx(means["gradient/original"] - means["sobel"])
    # Another condition is another comparison, and a mistyped one costs nothing.
    given[given.index("condition=[black]")] = "condition=[purple]"
    assert command("compare", *given).code == 2
    assert json.loads((directory / "summary.json").read_text()) == wide
    # All images were drawn: nothing is left but the mean, and allegiance is better when lower.
    assert wide["verdict"] == ("a" if wide["difference"] < 0 else "b")


def test_a_rule_chosen_after_a_look_keeps_what_was_said_before(command, classifier_file) -> None:
    given = [*DATA, f"ckpt={classifier_file}", "block_size=30", "condition=[black]"]
    given += ["a=gradient/original", "b=gradient/positive"]

    def asked(*words: str) -> tuple[list[float], str | None]:
        outcome = command("compare", *given, *words)
        assert outcome.code == 0, outcome.err
        summary = only_summary()[1]
        assert ("asked before by other rules" in outcome.out) == bool(summary["earlier"])
        return [one["rule"]["alpha"] for one in summary["earlier"]], summary["caution"]

    assert asked("alpha=0.001", "tolerance=0.5") == ([], None)
    first = only_summary()[1]
    assert asked("alpha=0.001", "least=60") == ([], None)  # the same rule, held at any stop
    before, caution = asked("alpha=0.2", "least=60")
    assert before == [0.001]
    assert caution is not None
    assert "alpha=0.001 kind=betting: " in caution
    assert "at most 20.1 %" in caution
    assert asked("alpha=0.2", "kind=bernstein", "least=60")[0] == [0.001, 0.2]
    # Back at the first: the others were asked as well, each once.
    assert asked("alpha=0.001", "least=60")[0] == [0.2, 0.2]
    assert asked("alpha=0.001", "least=60")[0] == [0.2, 0.2]
    assert asked("alpha=0.001", "overwrite=true", "tolerance=0.5") == ([], None)
    assert only_summary()[1]["pairs"] == first["pairs"]


def test_a_run_that_was_killed_after_another_rule_still_knows_it(
    command, classifier_file, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*DATA, f"ckpt={classifier_file}", "block_size=30", "condition=[black]"]
    given += ["a=[gradient/original,sobel]", "b=gradient/positive", "least=60"]
    assert command("compare", *given, "alpha=0.1").code == 0
    before = only_summary()[1]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compare, "_drawn_until", killed)
        assert command("compare", *given, "alpha=0.2").code == 130
    assert only_summary()[1] == {**before, "running": ["deletion"]}  # its verdict stands
    assert command("compare", *given, "alpha=0.2").code == 0
    assert "running" not in only_summary()[1]
    assert "at most 30 %" in only_summary()[1]["caution"]
    (one,) = only_summary()[1]["earlier"]
    assert one["rule"] == {"alpha": 0.1, "kind": "betting", "correction": "bonferroni"}
    assert [pair["a"] for pair in one["pairs"]] == ["gradient/original", "sobel"]
    assert command("compare", *given, "alpha=0.1", "correction=e-bh").code == 0
    caution = only_summary()[1]["caution"]
    assert "alpha=0.1 kind=betting correction=bonferroni: " in caution
    assert "together" not in caution  # shares of false verdicts do not add up


def test_several_pairs_by_another_score(command, classifier_file) -> None:
    outcome = command(
        "compare", *DATA, f"ckpt={classifier_file}", "a=[active,positive]", "b=original",
        "evaluator=[mu_fidelity]", "evaluator.mu_fidelity.samples=10", "least=60",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    directory, summary = only_summary()
    assert [(pair["a"], pair["b"]) for pair in summary["pairs"]] == [
        ("active", "original"),
        ("positive", "original"),
    ]
    assert [pair["alpha"] for pair in summary["pairs"]] == [0.025, 0.025]
    assert "verdict" not in summary
    assert "mu_fidelity" in directory.name
    assert outcome.out.count("original") >= 2


def test_bounds_of_one_pair_are_said_to_be_its_own_where_verdicts_are_of_all() -> None:
    entry = {"a": "A", "b": "B", "verdict": "undecided", "images": 283, "difference": 0.0322,
             "low": 0.002, "high": 0.0584}  # fmt: skip
    alone = verdict_text(entry, 2000, 0.05, shares=False)
    assert alone.endswith("(difference +0.0322, in [+0.0020, +0.0584])")
    assert verdict_text(entry, 2000, 0.05, shares=True).endswith("+0.0584] by this pair alone)")
    won = verdict_text({**entry, "verdict": "a"}, 2000, 0.05, shares=True)
    assert "false verdicts ≤ 5 %" in won


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a=active", "b=active"], "two maps"),
        (["a=five_views"], "one map each"),
        (["a=activ"], "'active'"),
        (["a=5"], "`a` to name a map"),
        (["a=[active,positive]", "b=[original,negative,inactive]"], "one length"),
        (["evaluator=[max_sensitivity]"], "range"),
        (["evaluator.deletion.draws=4"], "`evaluator.deletion.draws` to be null for compare"),
        (["b=sobel", "evaluator.deletion.fills=[black,white]"], "`condition`"),
        (["alpha=2"], "alpha"),
    ],
)  # fmt: skip
def test_mistakes_are_named(command, classifier_file, words: list[str], said: str) -> None:
    outcome = command("compare", *DATA, f"ckpt={classifier_file}", *words)
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("task", [["compare", "a=gradient", "b=sobel"], ["evaluate"]])
def test_images_that_the_classifier_was_trained_on_are_refused(
    command, classifier_file, tmp_path: Path, task: list[str]
) -> None:
    stored = torch.load(classifier_file, weights_only=True)
    stored["facts"][FACT] = sample_digests(["shapes/test/3", "shapes/test/7", "shapes/train/1"])
    torch.save(stored, tmp_path / "seen.ckpt")
    outcome = command(*task, *DATA, f"ckpt={tmp_path / 'seen.ckpt'}")
    assert outcome.code == 2
    assert "2 of 60 were part of its training (shapes/test/3, shapes/test/7" in outcome.err
    assert not list(Path("outputs").rglob("*.parquet"))


GRIDS = [
    "evaluator=[grid_pointing]", "evaluator.grid_pointing.sides=[2]",
    "evaluator.grid_pointing.separate=false", "condition=[grid]",
]  # fmt: skip


def test_images_without_a_score_are_drawn_and_end_it(command, classifier_file) -> None:
    given = [*DATA, f"ckpt={classifier_file}", "a=original", "b=random_map", *GRIDS]
    outcome = command(
        "compare", *given, "evaluator.grid_pointing.confidence=0.15", "block_size=2", "least=60"
    )
    assert outcome.code == 0, outcome.err
    directory, summary = only_summary()
    rows = pd.read_parquet(next(directory.glob("grid_pointing*.parquet")))
    scored = rows.dropna(subset=["pointing"]).pivot(index="drawn", columns="map", values="pointing")
    assert rows["sample_id"].nunique() == summary["drawn"] == 60
    assert 4 < len(scored) < 60
    assert f"leaves {60 - len(scored)} of 60 images out" in outcome.out + outcome.err
    differences = scored["original"] - scored["random_map"]
    assert summary["difference"] == pytest.approx(differences.sum() / 60)
    assert summary["verdict"] == ("a" if differences.mean() > 0 else "b")


def test_a_condition_without_a_score_yet_is_waited_for(command, classifier_file) -> None:
    """The first images drawn may have no grid: their rows say that the condition is one."""
    given = [*DATA, f"ckpt={classifier_file}", "a=original", "b=random_map", "evaluator=panel"]
    words = [
        "evaluator.panel.confidence=0.25",
        "evaluator.panel.samples=3",
        "block_size=1",
        "seed=1",
    ]
    outcome = command(
        "compare",
        *given,
        *words,
        "condition=[GridPG,map]",
        "evaluator.panel.twin=false",
        "least=12",
    )
    assert outcome.code == 0, outcome.err
    directory, summary = only_summary()
    rows = pd.read_parquet(next(directory.glob("panel*.parquet")))
    grids = rows[rows["measure"] == "GridPG"].groupby("drawn")["value"].count()
    assert grids.loc[0] == 0 < grids.max()
    assert summary["drawn"] >= 12
    wrong = command("compare", *given, *words, "condition=[GridPG,nothing]")
    assert wrong.code == 2
    assert "leaves 0 of" in wrong.err


def test_an_evaluator_that_scores_no_image_is_told(command, classifier_file) -> None:
    given = [*DATA, f"ckpt={classifier_file}", "a=original", "b=random_map", *GRIDS]
    outcome = command("compare", *given, "evaluator.grid_pointing.confidence=1.0")
    assert outcome.code == 2
    assert "leaves all of them out" in outcome.err


@pytest.fixture
def of_a_folder(command, tmp_path) -> list[str]:
    """Words for images in a folder, with a network trained on them."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 10)):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    words = ["data=folder", f"data.root={tmp_path}/images", "data.size=16",
             "trainer=cpu", "trainer.threads=1", "logger=none"]  # fmt: skip
    outcome = command("train", *words, "trainer.max_epochs=1", "model=basic_cnn")
    assert outcome.code == 0, outcome.err
    return [*words, "trainer.max_epochs=1", "model=basic_cnn"]


@pytest.mark.parametrize("renamed", [True, False])
def test_what_was_drawn_of_other_images_is_drawn_anew(
    command, tmp_path, of_a_folder, renamed: bool
) -> None:
    given = [*of_a_folder, "a=active", "b=original", "condition=[black]"]
    assert command("compare", *given, "least=12", "block_size=4", "tolerance=1.9").code == 0
    directory, summary = only_summary()
    assert summary["drawn"] < 20
    drawn = tmp_path / "images" / pd.read_parquet(directory / "deletion.parquet")["sample_id"][0]
    if renamed:
        drawn.rename(drawn.with_stem(f"{drawn.stem}a"))  # in the same place of the order
    else:
        Image.new("RGB", (16, 16), "red").save(drawn)
    outcome = command("compare", *given, "least=20", "block_size=4")
    assert outcome.code == 0, outcome.err
    assert "starting over: the images of the split are not those of" in outcome.out + outcome.err
    rows = pd.read_parquet(directory / "deletion.parquet")
    assert rows["sample_id"].nunique() == rows["drawn"].nunique() == 20


def test_a_rerun_that_is_refused_leaves_the_verdict(command, tmp_path, of_a_folder) -> None:
    given = [*of_a_folder, "a=active", "b=original", "condition=[black]", "least=4"]
    assert command("compare", *given).code == 0
    directory, summary = only_summary()
    config = (directory / "config.yaml").read_text()
    (tmp_path / "file").write_text("no folder")
    for words in (["data.cache_dir=/proc/none"], [f"data.cache_dir={tmp_path}/file"]):
        refused = command("compare", *given, *words)
        assert refused.code == 2
        assert "data.cache_dir" in refused.err
        assert {**only_summary()[1], "running": []} == {**summary, "running": []}
        assert (directory / "config.yaml").read_text() == config
        assert not (directory / "error.txt").exists()
    # What was seen under the first rule is still known under another.
    assert command("compare", *given, "alpha=0.1").code == 0
    assert [one["rule"]["alpha"] for one in only_summary()[1]["earlier"]] == [0.05]


def test_names_and_conditions() -> None:
    assert paired_names("x", ["y", "z"]) == (("x", "y"), ("x", "z"))
    scores = pd.DataFrame(
        {"map": ["x", "x", "y"], "mode": ["deletion"] * 3, "fill": ["black", "white", "white"]}
    )
    found = chosen_condition(scores, ["mode", "fill"], [], ("x", "y"))
    assert found == {"mode": "deletion", "fill": "white"}
    assert chosen_condition(scores, [], [], ("x", "y")) == {}
