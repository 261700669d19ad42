"""The verdict on a classifier's maps, from runs whose truth is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.rows.format import FORMAT, EvaluationSummary
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.comparing.verdict import Verdict, verdicts
from saliency_lab.report.page.verdicts import (
    agreement_table,
    sentences,
    verdict_sections,
    verdict_table,
)
from saliency_lab.report.reading.records import EvaluationRun

IMAGES = 60
MEASURES = ("one", "two", "three", "four", "five")
QUALITY = {f"map{at}": at / 10 for at in range(10)}
Rows = Sequence[Mapping[str, Any]]


def evaluation(
    method: str,
    label: str,
    rows: Rows,
    *,
    role: str = "measure",
    keys: Sequence[str] = (),
    better: str | None = "higher",
    facts: Mapping[str, Any] | None = None,
    control: bool = False,
) -> EvaluationRun:
    scores = pd.DataFrame(rows).assign(method=method, view="original", label=0)
    means = [
        {
            "method": method,
            "view": "original",
            "condition": dict(zip(keys, condition, strict=True)),
            "score": "value",
            "better": better,
            "value": float(part["value"].mean()),
            "low": float(part["value"].mean()) - 0.01,
            "high": float(part["value"].mean()) + 0.01,
            "images": len(part),
        }
        for condition, part in (scores.groupby(list(keys)) if keys else [((), scores)])
    ]
    summary = EvaluationSummary.model_validate(
        {
            "format": FORMAT,
            "status": "finished",
            "data": {"name": "cifar10", "images": IMAGES, "classes": ["a", "b"]},
            "model": {"name": "basic_cnn"},
            "seed": 1,
            "method": method,
            "views": ["original"],
            "control": control,
            "checkpoint": {"sha256": "abc"},
            "evaluators": {
                label: {
                    "name": label,
                    "conditions": list(keys),
                    "scores": [{"name": "value", "better": better}],
                    "role": role,
                    "means": means,
                    "facts": dict(facts or {}),
                }
            },
        }
    )
    return EvaluationRun(
        name=f"evaluate/{method}/{label}", path=Path(method), label=label, summary=summary,
        environment={}, pretrained=False, recipe={}, settings={},
        read_scores=lambda: scores, example_ids=(),
    )  # fmt: skip


def test_two_evaluators_of_one_run_keep_their_own_scores() -> None:
    runs = []
    for label, value in (("few", 0.2), ("many", 0.7)):
        rows = [{"sample_id": f"{at:03d}", "share": label, "value": value} for at in range(IMAGES)]
        run = evaluation("a", label, rows, keys=("share",))
        run.found.name = "one of both"
        runs.append(replace(run, name="evaluate/a"))
    (panel,) = build_panels(runs)
    assert panel.conditions == [("few",), ("many",)]
    for condition, value in ((("few",), 0.2), (("many",), 0.7)):
        assert set(panel.main_tables[condition][panel.maps[0].key]) == {value}


def panel_run(
    method: str, quality: float, *, twin: float = 0.0, least: int = 4, **further: Any
) -> EvaluationRun:
    """Every measure says `quality`, up to a noise of its own; the twin is better by `twin`."""
    rng = np.random.default_rng([ord(letter) for letter in method])
    rows = [
        {"sample_id": f"{at:03d}", "measure": measure, "version": version, "value": value}
        for measure in MEASURES
        for version, more in (("map", 0.0), ("twin", twin))
        for at, value in enumerate(quality + more + 0.02 * rng.normal(size=IMAGES))
    ]
    facts = {"least": least, "known_evidence": ["five"]}
    return evaluation(
        method, "panel", rows, role="panel", keys=("measure", "version"), facts=facts, **further
    )


def gate_run(method: str, verdict: str) -> EvaluationRun:
    rows = [{"sample_id": f"{at:03d}", "value": 0.1 * (at % 3)} for at in range(IMAGES)]
    entry = {"method": method, "view": "original", "variant": "plain", "verdict": verdict}
    smooth = entry | {"variant": "smooth", "verdict": "failed"}
    return evaluation(
        method, "randomisation", rows, role="gate", better=None, facts={"gate": [entry, smooth]}
    )


def values_run(method: str, label: str, value: float, **further: Any) -> EvaluationRun:
    rows = [{"sample_id": f"{at:03d}", "value": value} for at in range(IMAGES)]
    return evaluation(method, label, rows, **further)


def verdict_of(runs: Sequence[EvaluationRun]) -> Verdict:
    (found,) = verdicts(build_panels(runs))
    return found


def standing(verdict: Verdict, method: str):
    (found,) = [one for one in verdict.standings if one.map.method == method]
    return found


def test_of_runs_under_different_rules_the_strictest_holds() -> None:
    found = verdict_of([panel_run("a", 0.8, least=3), panel_run("b", 0.5, least=5)])
    assert found.least == 5


def test_panel_orders_maps_that_every_measure_tells_apart() -> None:
    found = verdict_of([panel_run("a", 0.8), panel_run("b", 0.5), panel_run("c", 0.2)])
    assert (found.pairs, found.decided, found.images, found.least) == (3, 3, IMAGES, 4)
    assert {m: len(standing(found, m).beats) for m in "abc"} == {"a": 2, "b": 1, "c": 0}
    assert {m: len(standing(found, m).loses_to) for m in "abc"} == {"a": 0, "b": 1, "c": 2}
    assert [one.map.method for one in found.believed] == ["a"]


def test_a_map_that_fails_a_gate_or_is_a_control_is_never_believed() -> None:
    panels = [panel_run("a", 0.8), panel_run("b", 0.5), panel_run("c", 0.2, control=True)]
    found = verdict_of([*panels, gate_run("a", "failed"), gate_run("b", "passed")])
    assert standing(found, "a").gate == "failed"
    assert standing(found, "b").gate == "passed"
    assert standing(found, "c").gate == "not tested"
    assert found.believed == []
    text = " ".join(sentences(found))
    assert "controls aside, no map that did not fail its gate stands above the others" in text
    assert "(gate failed): a." in text
    # Neither the smooth variant nor one gate hides what another says.
    both = verdict_of([*panels, gate_run("b", "undecided")])
    assert standing(both, "b").gates == {"randomisation": "undecided"}


def test_of_a_gate_on_several_sets_of_images_the_largest_counts() -> None:
    gates = [gate_run("a", "failed"), gate_run("a", "passed")]
    for run, count in zip(gates, (1000, 50), strict=True):
        run.summary.data.images = count
    panels = [panel_run("a", 0.8), panel_run("b", 0.5)]
    for order in (gates, gates[::-1]):
        assert standing(verdict_of([*panels, *order]), "a").gate == "failed"


@pytest.mark.parametrize("order", [1, -1])
def test_a_gate_under_two_settings_is_two_gates_of_which_the_worse_counts(order: int) -> None:
    strict, easy = gate_run("a", "failed"), gate_run("a", "passed")
    easy.found.settings = {"modes": "independent"}
    easy.summary.data.images = IMAGES + 100
    panels = [panel_run("a", 0.8), panel_run("b", 0.5)]
    found = standing(verdict_of([*panels, *(strict, easy)[::order]]), "a")
    assert found.gate == "failed"
    assert found.gates == {
        "randomisation, modes=default": "failed",
        "randomisation, modes=independent": "passed",
    }


def test_a_control_that_beats_every_map_is_said_to() -> None:
    noise = panel_run("noise", 0.8, control=True)
    alone = verdict_of([noise, panel_run("a", 0.5), panel_run("b", 0.2)])
    text = sentences(alone)[0]
    assert "the control noise beats 2 maps and loses to none; 0 of 3 pairs" in text
    assert "stands above" not in text
    # Beside a map that may be believed it is said as well.
    both = verdict_of([noise, panel_run("a", 0.8), panel_run("b", 0.2)])
    assert "a beats 1 other and loses to none; the control noise beats 1 map" in sentences(both)[0]
    none = verdict_of([panel_run("noise", 0.2, control=True), panel_run("a", 0.5)])
    assert "control" not in sentences(none)[0]


def test_maps_that_no_gate_was_run_on_are_named_where_one_was() -> None:
    panels = [panel_run("a", 0.8), panel_run("b", 0.5), panel_run("noise", 0.2, control=True)]
    panels.append(values_run("c", "depth", 0.5))
    said = "Not tested whether they depend on the model: a."
    assert said in sentences(verdict_of([*panels, gate_run("b", "passed")]))
    whole = sentences(verdict_of([*panels, gate_run("a", "passed"), gate_run("b", "passed")]))
    assert not [text for text in whole if text.startswith("Not tested")]


def test_names_that_hold_commas_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("gain, mean", "gain, ROAD", "three", "four", "five")
    monkeypatch.setattr("tests.report.comparing.test_verdict.MEASURES", names)
    runs = [panel_run("a", 0.8), panel_run("b", 0.5, twin=0.5), panel_run("c", 0.2)]
    found = verdict_of(runs)
    (section,) = verdict_sections([found])
    assert set(section["measures"].split("; ")) == set(names)
    table = verdict_table([found]).set_index("map")
    assert set(table.loc["b", "twin better by"].split("; ")) == set(names)
    assert set(table.loc["c", "loses to these"].split("; ")) == {"a", "b"}
    few = verdict_of([panel_run(name, 0.8, least=6) for name in "ab"])
    assert f"({'; '.join(names)})" in sentences(few)[0]


def test_what_no_gate_has_said_is_not_said() -> None:
    without = [
        panel_run("a", 0.8),
        panel_run("b", 0.8, twin=0.1),
        panel_run("c", 0.2, control=True),
    ]
    for run in without[:1]:
        run.summary.control = True
    text = " ".join(sentences(verdict_of(without)))
    assert "its gate" not in text
    undecided = sentences(verdict_of([*without, gate_run("a", "undecided")]))
    assert "Not shown to depend on what the model learned (gate undecided): a." in undecided


def test_too_few_measures_cannot_decide() -> None:
    found = verdict_of([panel_run("a", 0.8, least=9), panel_run("b", 0.5, least=9)])
    assert found.decided == 0
    (said,) = [one for one in sentences(found) if "measures" in one]
    assert said.startswith(
        f"No map can beat another: it takes 9 measures that agree, and {len(MEASURES)}"
    )


def test_a_twin_that_wins_is_named() -> None:
    found = verdict_of([panel_run("a", 0.8, twin=0.1), panel_run("b", 0.5, twin=-0.1)])
    assert standing(found, "a").twin_wins == MEASURES
    assert standing(found, "b").twin_wins == ()
    assert any("Smoothing alone improves a by two" in one for one in sentences(found))


def test_agreement_is_positive_where_better_maps_are_truer() -> None:
    runs = []
    for method, quality in QUALITY.items():
        runs += [
            values_run(method, "truth", quality, role="truth"),
            values_run(method, "area", 1 - quality, better="lower"),
            values_run(method, "liar", 1 - quality, better="higher"),
            values_run(method, "describes", quality, better=None),
        ]
    found = verdict_of(runs)
    (truth,) = found.truths
    by_name = {one.measure: one.correlation for one in truth.agreements}
    assert set(by_name) == {"area", "liar"}
    assert by_name["area"].value == pytest.approx(1)
    assert by_name["liar"].value == pytest.approx(-1)
    text = " ".join(sentences(found))
    assert "area agrees best: rank correlation 1.000" in text
    assert "], chosen from 2; liar contradicts it: −1.000" in text
    assert "no single measure, deletion included, can" in text
    table = agreement_table([found]).set_index("measure")
    assert table.loc["area", "rank correlation"] == pytest.approx(1)
    assert list(table["maps"]) == [10, 10]
    svg = verdict_sections([found])[0]["truths"][0]["figures"][0]["svg"]
    assert svg.count("<title>") == 10


def test_a_truth_that_is_better_lower_turns_the_sign() -> None:
    runs = []
    for method, quality in QUALITY.items():
        runs += [
            values_run(method, "distance", 1 - quality, role="truth", better="lower"),
            values_run(method, "area", 1 - quality, better="lower"),
            values_run(method, "share", quality, better="higher"),
        ]
    (truth,) = verdict_of(runs).truths
    by_name = {one.measure: one.correlation.value for one in truth.agreements}
    assert by_name == {"area": pytest.approx(1), "share": pytest.approx(1)}


def test_too_few_maps_have_no_order() -> None:
    runs = []
    for method in list(QUALITY)[:7]:
        runs += [
            values_run(method, "truth", QUALITY[method], role="truth"),
            values_run(method, "area", QUALITY[method]),
        ]
    assert verdict_of(runs).truths == []


def test_the_panel_is_not_asked_whether_the_truth_agrees_with_itself() -> None:
    """Four measures rank backwards, the fifth is the truth: the panel's agreement is −1."""
    runs = []
    for method, quality in QUALITY.items():
        rows = [
            {"sample_id": f"{at:03d}", "measure": measure, "version": "map",
             "value": (quality if measure == "five" else -quality) + 1e-4 * ((7 * at) % 5)}
            for measure in MEASURES
            for at in range(IMAGES)
        ]  # fmt: skip
        facts = {"least": 4, "known_evidence": ["five"]}
        runs += [
            evaluation(method, "panel", rows, role="panel", keys=("measure", "version"),
                       facts=facts),
            values_run(method, "truth", quality, role="truth"),
        ]  # fmt: skip
    found = verdict_of(runs)
    # With the fifth measure every pair has an objection.
    assert found.decided == 0
    (truth,) = found.truths
    by_name = {one.condition: one.correlation.value for one in truth.agreements}
    assert by_name["maps beaten − lost to"] == pytest.approx(-1)
    assert by_name["one"] == pytest.approx(-1)
    assert "five" not in by_name


def test_classifiers_of_one_name_have_titles_that_tell_them_apart() -> None:
    runs = [panel_run("a", 0.8), panel_run("b", 0.5)]
    others = [panel_run("a", 0.8), panel_run("b", 0.5)]
    for run in others:
        run.summary.checkpoint = {"sha256": "def"}
    titles = [found.title for found in verdicts(build_panels([*runs, *others]))]
    assert len(set(titles)) == 2
    assert all("weights" in title and "panel" not in title for title in titles)


def test_other_classifiers_are_judged_apart() -> None:
    other = panel_run("b", 0.5)
    other.summary.checkpoint = {"sha256": "other"}
    found = verdicts(build_panels([panel_run("a", 0.8), other]))
    assert [len(one.standings) for one in found] == [1, 1]
    assert all(one.pairs == 0 for one in found)


def test_table_lists_what_each_map_lost_to() -> None:
    found = verdict_of([panel_run("a", 0.8), panel_run("b", 0.5), gate_run("b", "passed")])
    table = verdict_table([found]).set_index("map")
    assert list(table.index) == ["a", "b"]
    assert table.loc["b", "loses to these"] == "a"
    assert list(table["gate"]) == ["not tested", "passed"]


def test_classifiers_of_which_nothing_was_asked_share_one_section() -> None:
    silent = [Verdict(name, f"panel-{name}", [], []) for name in ("first", "third")]
    asked = Verdict("second", "panel-second", [], [], measures=["one"], images=9, least=3)
    sections = verdict_sections([silent[0], asked, silent[1]])
    titles = [[one["title"] for one in section["classifiers"]] for section in sections]
    assert titles == [["second"], ["first", "third"]]
    assert [one["slug"] for one in sections[1]["classifiers"]] == ["panel-first", "panel-third"]
    assert "cannot tell which of these maps" in sections[1]["sentences"][0]
    assert "No map can beat another" in sections[0]["sentences"][0]
