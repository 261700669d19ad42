"""Differences between a panel's maps: one family, whichever runs they are of."""

from __future__ import annotations

import pytest

from saliency_lab.evaluation.rows.format import Comparison, Side
from saliency_lab.evaluation.rows.significance import holm
from saliency_lab.report.comparing.contrasts import to_controls, to_reference
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.panels import build_panels
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
