"""Which curves a panel has: measured twice, with other settings, as a control."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from saliency_lab.evaluation.deletion.sections import points_of
from saliency_lab.evaluation.rows.format import Comparison, Side
from saliency_lab.evaluation.rows.significance import holm, paired_difference
from saliency_lab.report.comparing.contrasts import beats
from saliency_lab.report.comparing.panels import Panel, build_panels
from saliency_lab.report.drawing.palette import style_of
from saliency_lab.report.page.page import write_report
from saliency_lab.report.page.tables import run_table
from saliency_lab.report.reading.records import read_records

from ..rundirs import PAPER_VIEWS, write_evaluation

SMALL = {"count": 12, "size": 8, "shown": 4}
SMOOTH = {"method": "smoothgrad", "views": ["original"]}


def _panels(outputs: Path) -> list[Panel]:
    return build_panels(read_records(outputs).evaluations)


def _smoothgrad(samples: int) -> dict[str, object]:
    return {"method": {"name": "smoothgrad", "samples": samples, "noise": 0.15}}


def test_a_curve_measured_twice_is_shown_once_and_both_runs_are_named(tmp_path: Path) -> None:
    write_evaluation(tmp_path, **SMALL, views=["active"], name="active/seed-42")
    write_evaluation(tmp_path, **SMALL, name="paper/seed-42")
    (panel,) = _panels(tmp_path)
    assert [one.label for one in panel.maps] == list(PAPER_VIEWS)
    assert {curve.run.name.split("/")[-2] for curve in panel.maps} == {"paper"}
    places = ["key", "mode", "fill", "sample_id"]
    assert not panel.scores.duplicated(places).any()
    assert not points_of(panel).duplicated(["key", "mode", "fill", "fraction"]).any()
    table = run_table([panel]).set_index("run")
    again = table.loc["evaluate/cifar10/resnet18/active/seed-42"]
    assert again["methods"] == "active"
    assert again["repeats"] == "evaluate/cifar10/resnet18/paper/seed-42"
    assert pd.isna(table.loc["evaluate/cifar10/resnet18/paper/seed-42", "repeats"])
    text = write_report(tmp_path, None, tmp_path / "report").page.read_text(encoding="utf-8")
    assert "active (" not in text
    assert "active/seed-42" in text


def test_a_repetition_adds_only_the_fill_that_is_new(tmp_path: Path) -> None:
    write_evaluation(tmp_path, **SMALL, name="paper/seed-42", fills=["black"])
    write_evaluation(tmp_path, **SMALL, views=["active"], name="active/seed-42")
    (panel,) = _panels(tmp_path)
    assert len(panel.maps) == 5
    points = points_of(panel)
    runs = points[points["key"] == "gradient/active"].groupby("fill")["fraction"].size()
    assert runs.to_dict() == {"black": 13, "white": 13}
    assert "repeats" not in run_table([panel]).columns


def test_another_checkpoint_is_another_panel(tmp_path: Path) -> None:
    write_evaluation(tmp_path, **SMALL, name="paper/seed-42")
    write_evaluation(tmp_path, **SMALL, views=["active"], name="active/seed-42", checkpoint=5)
    panels = _panels(tmp_path)
    assert [len(panel.maps) for panel in panels] == [1, 5]
    assert all("weights" in panel.title for panel in panels)


def test_other_settings_are_curves_of_their_own_that_say_what_differs(tmp_path: Path) -> None:
    runs = {"smoothgrad/seed-42": 50, "smoothgrad/seed-42+method.samples-20": 20}
    for name, samples in runs.items():
        write_evaluation(tmp_path, **SMALL, **SMOOTH, name=name, config=_smoothgrad(samples))
    (panel,) = _panels(tmp_path)
    assert {curve.key: curve.label for curve in panel.maps} == {
        "smoothgrad/original": "smoothgrad (samples=50)",
        "smoothgrad/original (samples=20)": "smoothgrad (samples=20)",
    }
    assert len({curve.style.dash for curve in panel.maps}) == 2


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"trainer": {"precision": "bf16-mixed"}}, {"original"}),
        ({"engine": {"screen": "off", "maps_batch": 8}}, {"original"}),
        ({"engine": {"screen": "int8"}}, {"original (screen=off)", "original (screen=int8)"}),
        (
            {"engine": {"precision": "bf16"}},
            {"original (precision=fp32)", "original (precision=bf16)"},
        ),
        (
            {"trainer": {"precision": "64-true"}},
            {"original (precision=32-true)", "original (precision=64-true)"},
        ),
    ],
)
def test_how_the_model_was_run_is_named_where_it_shapes_the_result(
    tmp_path: Path, config: dict[str, object], labels: set[str]
) -> None:
    plain = {"trainer": {"precision": "32-true"}, "engine": {"precision": "fp32", "screen": "off"}}
    for name, chosen in (("paper/seed-42", plain), ("paper/seed-42+other", plain | config)):
        write_evaluation(tmp_path, **SMALL, views=["original"], name=name, config=chosen)
    (panel,) = _panels(tmp_path)
    assert {curve.label for curve in panel.maps} == labels


def test_curves_of_runs_that_do_not_tell_their_settings_are_kept_apart(tmp_path: Path) -> None:
    for name in ("one/seed-42", "two/seed-42"):
        run = write_evaluation(tmp_path, **SMALL, **SMOOTH, name=name)
        (run / "config.yaml").write_text("task: evaluate\n")
    (panel,) = _panels(tmp_path)
    assert [curve.label for curve in panel.maps] == ["smoothgrad", "smoothgrad (two/seed-42)"]


def test_a_recorded_comparison_with_a_reference_of_other_settings_is_not_taken(
    tmp_path: Path,
) -> None:
    write_evaluation(tmp_path, **SMALL, views=["original"], name="original/seed-42")
    other = {"view": {"names": ["paper"], "channels": "sum"}}
    name = "paper/seed-42+view.channels-sum"
    run = write_evaluation(tmp_path, **SMALL, name=name, config=other)
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    for comparison in summary["evaluators"]["deletion"]["comparisons"]:
        comparison["p"] = comparison["p_holm"] = 0.123
    path.write_text(json.dumps(summary))
    (panel,) = _panels(tmp_path)
    assert panel.reference.label == "original (channels=max)"
    assert panel.comparison_of
    assert all(found.p != 0.123 for found in panel.comparison_of.values())


def test_methods_are_compared_with_the_best_control(tmp_path: Path) -> None:
    write_evaluation(tmp_path, **SMALL, name="paper/seed-42")
    controls = [("random_map", "original"), ("sobel", "positive")]
    for method, view in controls:
        write_evaluation(
            tmp_path, **SMALL, method=method, views=[view], name=f"{method}/seed-42", control=True
        )
    (panel,) = _panels(tmp_path)
    keys = [f"{method}/{view}" for method, view in controls]
    assert [curve.key for curve in panel.maps if curve.control] == keys
    wide = panel.scores.pivot_table(
        index="sample_id", columns=["key", "mode", "fill"], values="allegiance"
    )
    pairs = []
    for fill in ("black", "white"):
        best = min(keys, key=lambda key: wide[key, "deletion", fill].mean())
        pairs += [((f"gradient/{view}", ("deletion", fill)), best) for view in PAPER_VIEWS]
    assert panel.control_of.keys() == {place for place, _ in pairs}
    found = [
        paired_difference(wide[key, *condition], wide[best, *condition])
        for (key, condition), best in pairs
    ]
    corrected = holm([difference.p for difference in found])
    for (place, best), difference, p in zip(pairs, found, corrected, strict=True):
        mine = panel.control_of[place]
        assert f"{mine.b.method}/{mine.b.view}" == best
        assert mine.difference == pytest.approx(difference.difference)
        assert mine.p_holm == pytest.approx(p)
        assert beats(mine) == (difference.high < 0 and p < 0.05)
    text = write_report(tmp_path, None, tmp_path / "report").page.read_text(encoding="utf-8")
    failed = sum(not beats(mine) for mine in panel.control_of.values())
    assert failed > 0
    assert len(re.findall('class="mark" title', text)) == failed
    assert len(re.findall('class="mark">control<', text)) == 4
    areas = pd.read_csv(tmp_path / "report" / "tables" / "scores.csv")
    assert areas[areas["score"] == "allegiance"]["control"].sum() == 4
    assert (areas["beats the controls"].dropna().astype(str) == "False").sum() == failed


@pytest.mark.parametrize(
    ("mode", "low", "high", "p", "expected"),
    [
        ("deletion", -0.2, -0.1, 0.01, True),
        ("deletion", -0.2, 0.1, 0.01, False),
        ("deletion", -0.2, -0.1, 0.06, False),
        ("deletion", 0.1, 0.2, 0.01, False),
        ("insertion", 0.1, 0.2, 0.01, True),
        ("insertion", -0.2, -0.1, 0.01, False),
    ],
)
def test_beating_is_smaller_under_deletion_and_larger_under_insertion(
    mode: str, low: float, high: float, p: float, expected: bool
) -> None:
    side = Side(method="gradient", view="active")
    comparison = Comparison(
        a=side,
        b=side,
        condition={"mode": mode, "fill": "black"},
        score="allegiance",
        better="higher" if mode == "insertion" else "lower",
        difference=(low + high) / 2,
        low=low,
        high=high,
    )
    assert beats(comparison.model_copy(update={"p_holm": p})) is expected
    assert beats(comparison) is False


def test_a_run_from_before_a_setting_was_there_shares_a_panel_with_those_that_have_it_off(
    tmp_path: Path,
) -> None:
    before = write_evaluation(tmp_path, views=["original"], count=6, size=8, shown=1)
    summary = json.loads((before / "summary.json").read_text())
    del summary["evaluators"]["deletion"]["settings"]["draws"]
    (before / "summary.json").write_text(json.dumps(summary))
    for name, draws in (("smooth/seed=42", None), ("drawn/seed=42", 4)):
        write_evaluation(
            tmp_path, name=name, method="smoothgrad", draws=draws, count=6, size=8, shown=1
        )
    panels = build_panels(read_records(tmp_path).evaluations)
    drawn, whole = sorted(panels, key=lambda panel: "draws" not in panel.found.facts)
    assert {one.method for one in whole.maps} == {"gradient", "smoothgrad"}
    assert {one.method for one in drawn.maps} == {"smoothgrad"}
    assert "draws=4" in drawn.title
    assert "draws=default" in whole.title


def test_no_two_maps_of_a_panel_are_drawn_alike(tmp_path: Path) -> None:
    for method in ("smoothgrad", "gradient_x_input"):
        write_evaluation(
            tmp_path, **SMALL, method=method, views=["positive"], name=f"{method}/seed-42"
        )
    (panel,) = _panels(tmp_path)
    assert panel.maps[0].style == style_of("smoothgrad", "positive")
    looks = {(one.style.colour, one.style.dash, one.style.marker) for one in panel.maps}
    assert len(looks) == len(panel.maps) == 2
