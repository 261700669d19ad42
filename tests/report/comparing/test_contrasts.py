"""Differences between a panel's maps: one family, whichever runs they are of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saliency_lab.evaluation.rows.format import Comparison, Side
from saliency_lab.evaluation.rows.significance import holm
from saliency_lab.report.comparing.contrasts import best_control, to_controls, to_reference
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.page.score_tables import score_section
from saliency_lab.report.page.tables import score_table
from saliency_lab.report.reading.records import EvaluationRun
from tests.report.comparing.test_verdict import evaluation, values_run


def _of_two_maps(method: str, p: float) -> EvaluationRun:
    """A run that has compared its map with the reference itself, as a family of one."""
    rows = [{"sample_id": f"{at:02d}", "value": 0.1 * (at % 5)} for at in range(20)]
    run = evaluation(method, "area", rows, better="lower")
    run.found.comparisons = [
        Comparison(
            a=Side(method=method, view="original"), b=Side(method="gradient", view="original"),
            score="value", better="lower", difference=-0.1, low=-0.2, high=-0.05, p=p, p_holm=p,
        )
    ]  # fmt: skip
    return run


def test_differences_that_runs_found_apart_are_corrected_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ps = {"a": 0.02, "b": 0.03, "c": 0.04}
    reference = values_run("gradient", "area", 0.5, better="lower")
    (panel,) = build_panels([reference, *(_of_two_maps(name, p) for name, p in ps.items())])
    # Each run has measured the reference beside its own map.
    panel.key_of |= {(one.run.name, "gradient", "original"): panel.reference.key
                     for one in panel.maps}  # fmt: skip
    found = to_reference(panel, Known())
    assert {key[0][0]: one.p for key, one in found.items()} == ps
    assert [one.p_holm for one in found.values()] == pytest.approx(holm(list(ps.values())))
    assert min(one.p_holm or 0 for one in found.values()) > 0.05


def _control(method: str, value: float, **settings: str) -> EvaluationRun:
    run = values_run(method, "area", value, better="lower", control=True)
    place = "degraded.degraded" if method == "degraded" else f"controls.{method}"
    target = {"method._target_": f"saliency_lab.attribution.methods.{place}"}
    name = f"{run.name}{''.join(settings.values())}"
    return replace(run, name=name, settings={**target, **settings})


def test_maps_made_of_the_classifiers_gradient_are_no_best_control() -> None:
    shares = {share: {"method.share": share} for share in ("0.0", "0.1", "1.0")}
    runs = [
        values_run("gradient", "area", 0.3, better="lower"),
        _control("inverted", 0.1),
        _control("random_map", 0.9),
        *(_control("degraded", value, **shares[share]) for share, value in
          (("0.0", 0.2), ("0.1", 0.25), ("1.0", 0.8))),
    ]  # fmt: skip
    (panel,) = build_panels(runs)
    best = best_control(panel, ())
    assert best is not None
    assert best.label == "degraded (share=1.0)"
    assert panel.control_of.keys() == {("gradient/original", ())}
    row = score_table([panel]).set_index("map").loc["original"]
    assert row["best control"] == "degraded (share=1.0)"
    assert row["difference to control"] == pytest.approx(0.3 - 0.8)
    assert row["beats the controls"]
    (blind,) = build_panels([*runs[:2], *runs[3:5]])
    assert best_control(blind, ()) is None
    assert not blind.control_of


def test_a_map_that_is_no_better_than_a_control_is_told_which_settings_it_has() -> None:
    runs = [
        values_run("gradient", "area", 0.9, better="lower"),
        _control("degraded", 0.8, **{"method.share": "1.0"}),
        _control("degraded", 0.2, **{"method.share": "0.5"}),
    ]
    (panel,) = build_panels(runs)
    rows = {row["label"]: row for row in score_section(panel, ())["rows"]}
    assert rows["original"]["mark"] == "does not beat the controls"
    assert rows["original"]["mark_title"].startswith("difference to degraded (share=1.0): 0.1")


def test_what_is_not_to_be_tested_has_no_p_and_beats_no_control() -> None:
    runs = [
        values_run("gradient", "area", 0.5, better="lower"),
        values_run("a", "area", 0.2, better="lower"),
        values_run("noise", "area", 0.9, better="lower", control=True),
    ]
    for run in runs:
        run.found.tested = False
    (panel,) = build_panels(runs)
    assert to_controls(panel, Known()) == {}
    found = to_reference(panel, Known())
    assert len(found) == 2
    assert {(one.p, one.p_holm) for one in found.values()} == {(None, None)}
