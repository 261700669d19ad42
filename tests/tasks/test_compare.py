"""The task compare as a person runs it: verdict, resuming, widening, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.rows.decisions import permutation
from saliency_lab.evaluation.rows.sequences import confidence_sequence
from saliency_lab.tasks.pairs import chosen_condition, paired_names

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
    # All images were drawn: nothing is left but the mean, and allegiance is better when lower.
    assert wide["verdict"] == ("a" if wide["difference"] < 0 else "b")


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a=active", "b=active"], "two maps"),
        (["a=five_views"], "one map each"),
        (["a=activ"], "'active'"),
        (["a=[active,positive]", "b=[original,negative,inactive]"], "one length"),
        (["evaluator=[max_sensitivity]"], "range"),
        (["b=sobel", "evaluator.deletion.fills=[black,white]"], "`condition`"),
        (["alpha=2"], "alpha"),
    ],
)  # fmt: skip
def test_mistakes_are_named(command, classifier_file, words: list[str], said: str) -> None:
    outcome = command("compare", *DATA, f"ckpt={classifier_file}", *words)
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_names_and_conditions() -> None:
    assert paired_names("x", ["y", "z"]) == (("x", "y"), ("x", "z"))
    scores = pd.DataFrame(
        {"map": ["x", "x", "y"], "mode": ["deletion"] * 3, "fill": ["black", "white", "white"]}
    )
    found = chosen_condition(scores, ["mode", "fill"], [], ("x", "y"))
    assert found == {"mode": "deletion", "fill": "white"}
    assert chosen_condition(scores, [], [], ("x", "y")) == {}
