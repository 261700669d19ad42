"""The first screen: comparisons that stopped, sentences, and no markup from anybody's names."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from saliency_lab.errors import UserError
from saliency_lab.report.page.page import write_report

PAIR = {
    "a": "active",
    "b": "<b>original</b>",
    "condition": {"fill": "black"},
    "verdict": "a",
    "images": 57,
    "difference": -0.16,
    "low": -0.28,
    "high": -0.01,
    "alpha": 0.05,
    "stopped": True,
    "sentence": "active beats <b>original</b> after 57 of 10,000 images",
}


def comparison(outputs: Path, name: str = "active-original", **changes: object) -> Path:
    directory = outputs / "compare" / "cifar10" / "basic_cnn" / name
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("task: compare\n")
    summary = {
        "task": "compare",
        "status": "finished",
        "data": {"name": "cifar10", "split": "test", "images": 10_000},
        "model": {"name": "basic_cnn"},
        "seed": 42,
        "evaluator": "deletion",
        "score": {"name": "allegiance", "better": "lower"},
        "remark": "biased by stopping there",
        "pairs": [PAIR],
        **changes,
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def test_a_comparison_that_was_asked_by_another_rule_says_so(tmp_path: Path) -> None:
    comparison(tmp_path / "outputs", caution="asked before by other rules (alpha=0.01: <i>a</i>)")
    page = write_report(tmp_path / "outputs", None, tmp_path / "report").page.read_text()
    assert "Caution:</strong> asked before by other rules (alpha=0.01: &lt;i&gt;a" in page


def test_a_comparison_alone_makes_a_page_with_its_sentence(tmp_path: Path) -> None:
    comparison(tmp_path / "outputs")
    files = write_report(tmp_path / "outputs", None, tmp_path / "report")
    page = files.page.read_text()
    assert "active beats &lt;b&gt;original&lt;/b&gt; after 57 of 10,000 images" in page
    assert "biased by stopping there" in page
    assert "<b>original</b>" not in page
    assert "Caution:" not in page
    table = pd.read_csv(tmp_path / "report" / "tables" / "comparisons.csv")
    assert list(table["verdict"]) == ["active"]
    assert (table["images"].item(), table["of"].item()) == (57, 10_000)


def test_comparisons_of_several_seeds_say_of_which_they_are(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    comparison(outputs)
    assert "seed 42" not in write_report(outputs, None, tmp_path / "report").page.read_text()
    comparison(outputs, "other", seed=7)
    page = write_report(outputs, None, tmp_path / "report").page.read_text()
    for seed in (42, 7):
        assert f"<li>cifar10 · basic_cnn, seed {seed}, deletion (black): active beats" in page
    table = pd.read_csv(tmp_path / "report" / "tables" / "comparisons.csv")
    assert set(table["seed"]) == {42, 7}


def test_a_comparison_that_is_not_finished_is_named_not_shown(tmp_path: Path) -> None:
    comparison(tmp_path / "outputs", status="running")
    with pytest.raises(UserError, match="unfinished"):
        write_report(tmp_path / "outputs", None, tmp_path / "report")


def test_a_comparison_with_a_damaged_summary_is_unreadable(tmp_path: Path) -> None:
    comparison(tmp_path / "outputs", pairs=[{"a": "active"}])
    with pytest.raises(UserError, match="unreadable"):
        write_report(tmp_path / "outputs", None, tmp_path / "report")


def test_the_page_says_that_deletion_alone_does_not_tell(report) -> None:
    page = report.page.read_text()
    first = page.index("Which of these maps may you believe?")
    assert first < page.index("The published areas")
    assert "no single measure, deletion included, can" in page
    assert "<code>evaluator=[panel,randomisation]</code>" in page
