"""What the page says of an evaluator that it knows only by its declarations."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.page.page import write_report
from saliency_lab.report.page.sections import panel_section
from saliency_lab.report.reading.records import read_records

from ..rundirs import MadeUp, write_evaluation

SMALL = {"count": 20, "size": 8, "shown": 4}
PLAIN = MadeUp()
DEPTHS = MadeUp(score="depth_error", better="lower", conditions={"depth": ["2", "5"]})


def _text(outputs: Path) -> str:
    return write_report(outputs, None, outputs / "report").page.read_text(encoding="utf-8")


def _articles(text: str) -> list[str]:
    return re.findall(r'<article class="panel" id=.*?</article>', text, re.S)


def _words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


@pytest.mark.parametrize("one", [PLAIN, DEPTHS], ids=["without a condition", "with one"])
def test_a_table_has_means_and_intervals(tmp_path: Path, one: MadeUp) -> None:
    run = write_evaluation(tmp_path, **SMALL, deletion=False, made_up={"mine": one})
    text = _text(tmp_path)
    (article,) = _articles(text)
    assert '<svg class="chart"' not in article
    assert 'id="examples"' not in text
    means = json.loads((run / "summary.json").read_text())["evaluators"]["mine"]["means"]
    assert len(means) == 5 * max(len(places) for places in [[()], *one.conditions.values()])
    words = _words(article)
    for mean in means:
        low, high = (f"{mean[end]:.3f}".removeprefix("0") for end in ("low", "high"))
        assert f"{mean['value']:.3f} [{low}, {high}]" in words
    assert article.count("<caption>") == len(means) // 5
    for depth in one.conditions.get("depth", ()):
        assert f"<caption>depth {depth}</caption>" in article
    table = pd.read_csv(tmp_path / "report" / "tables" / "scores.csv")
    assert table["mean"].tolist() == pytest.approx([mean["value"] for mean in means])
    assert set(table["better"]) == {one.better}
    assert set(table["score"]) == {one.score}


def test_two_evaluators_of_one_run_are_two_panels(tmp_path: Path) -> None:
    write_evaluation(tmp_path, **SMALL, made_up={"mine": PLAIN})
    panels = build_panels(read_records(tmp_path).evaluations)
    assert [panel.title for panel in panels] == [
        "CIFAR-10 · ResNet-18 (deletion)",
        "CIFAR-10 · ResNet-18 (mine)",
    ]
    deletion, mine = panels
    assert (deletion.main, mine.main) == ("allegiance", "usefulness")
    assert len({panel.slug for panel in panels}) == 2
    assert len(mine.comparison_of) == 4
    articles = _articles(_text(tmp_path))
    assert ['<svg class="chart"' in article for article in articles] == [True, False]


def test_other_settings_of_an_evaluator_are_another_panel(tmp_path: Path) -> None:
    for protocol in ("threshold", "standard"):
        settings = {"protocol": protocol}
        write_evaluation(tmp_path, **SMALL, name=f"{protocol}/seed=42", settings=settings)
    titles = {panel.title for panel in build_panels(read_records(tmp_path).evaluations)}
    assert titles == {
        f"CIFAR-10 · ResNet-18 (deletion, protocol={protocol})"
        for protocol in ("threshold", "standard")
    }


def test_further_fills_are_conditions_of_the_same_panel(tmp_path: Path) -> None:
    for fill in ("black", "white"):
        write_evaluation(tmp_path, **SMALL, name=f"{fill}/seed=42", fills=[fill])
    (panel,) = build_panels(read_records(tmp_path).evaluations)
    assert panel.conditions == [("deletion", "black"), ("deletion", "white")]


def test_what_lies_below_zero_is_drawn_from_there(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path, **SMALL, deletion=False, made_up={"mine": PLAIN})
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    for place, mean in enumerate(summary["evaluators"]["mine"]["means"]):
        mean |= {"value": -0.5 + 0.1 * place, "low": -0.6, "high": -0.1}
    path.write_text(json.dumps(summary))
    (panel,) = build_panels(read_records(tmp_path).evaluations)
    (table,) = panel_section(panel)["tables"]
    places = [float(re.search(r'cx="([\d.]+)"', row["glyph"])[1]) for row in table["rows"]]
    # From −0.6 at 5 to 0 at 85.
    assert places == pytest.approx([5 + 80 * (0.1 + 0.1 * n) / 0.6 for n in range(5)], abs=0.1)


def test_an_older_run_is_named_in_one_line(tmp_path: Path) -> None:
    write_evaluation(tmp_path, **SMALL)
    old = write_evaluation(tmp_path, **SMALL, name="old/seed=42")
    (old / "summary.json").write_text(json.dumps({"task": "evaluate", "status": "finished"}))
    (problem,) = read_records(tmp_path).problems
    assert (problem.name, problem.state) == ("evaluate/cifar10/resnet18/old/seed=42", "older")
    assert "format 1, this one reads 2" in problem.reason
    assert "\n" not in problem.reason
    text = _text(tmp_path)
    (line,) = re.findall(r'<ul class="problems">(.*?)</ul>', text, re.S)
    assert line.count("<li>") == 1
    assert problem.reason in line


@pytest.mark.parametrize("failed", [False, True])
def test_what_is_running_stands_beside_what_is_finished(tmp_path: Path, failed: bool) -> None:
    run = write_evaluation(tmp_path, **SMALL)
    path = run / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "running": ["mine"]}))
    if failed:
        (run / "error.txt").write_text("MemoryError: too large\n")
    records = read_records(tmp_path)
    assert [each.label for each in records.evaluations] == ["deletion"]
    (problem,) = records.problems
    assert problem.state == ("failed" if failed else "unfinished")
    assert problem.reason.startswith("mine")
    assert ("too large" in problem.reason) == failed
    text = _text(tmp_path)
    assert len(_articles(text)) == 1
    assert problem.reason in text


def test_warnings_of_all_runs_are_on_the_page_once(tmp_path: Path) -> None:
    for name, views in (("one", ["original"]), ("two", ["active"])):
        warnings = ["the classifier guesses & <more>"]
        write_evaluation(tmp_path, **SMALL, name=f"{name}/s", views=views, warnings=warnings)
    (article,) = _articles(_text(tmp_path))
    assert article.count("Warning:") == 1
    assert "the classifier guesses &amp; &lt;more&gt;" in article


def _with_deleted(run: Path, shares: dict[str, float]) -> None:
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    for mean in summary["evaluators"]["deletion"]["means"]:
        if mean["score"] == "deleted":
            mean["value"] = shares[mean["view"]]
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize(("least", "noted"), [(0.3, True), (0.85, False)])
def test_maps_that_delete_other_shares_are_noted(tmp_path: Path, least: float, noted: bool) -> None:
    run = write_evaluation(tmp_path, **SMALL, views=["original", "active"])
    _with_deleted(run, {"original": 0.9, "active": least})
    (article,) = _articles(_text(tmp_path))
    assert ("from 30.0 % (active) to 90.0 %" in article) == noted
    assert ("different shares" in article) == noted


def test_a_clear_interval_with_a_large_p_is_explained(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path, **SMALL, views=["active", "original"], fills=["black"])
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    (comparison,) = summary["evaluators"]["deletion"]["comparisons"]

    def shown(**changes: float) -> tuple[bool, bool]:
        comparison.update(changes)
        path.write_text(json.dumps(summary))
        (article,) = _articles(_text(tmp_path))
        difference = f"{comparison['difference']:.3f}".replace("-", "−")
        return "its interval excludes 0" in article, f"<strong>{difference}</strong>" in article

    clear = {"difference": -0.2, "low": -0.3, "high": -0.1}
    assert shown(**clear, p=0.2) == (True, False)
    assert shown(**clear, p=0.04) == (False, True)
    assert shown(**clear | {"high": 0.1}, p=0.2) == (False, False)
