"""The table of sanity tests: verdicts of gates, values of robustness, controls last."""

from __future__ import annotations

import pytest

from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.comparing.sanity import sanity_table
from tests.report.comparing.test_verdict import evaluation, values_run


def gate(method: str, verdict: str, **further):
    tests = [
        {"test": "upper half", "step": 2, "value": 0.6, "low": 0.55, "high": 0.65,
         "verdict": verdict},
        {"test": "all layers", "step": 4, "value": None, "low": None, "high": None,
         "verdict": "undecided"},
    ]  # fmt: skip
    entries = [
        {"method": method, "view": "original", "variant": variant, "verdict": verdict,
         "tests": tests}
        for variant in ("plain", "smooth")
    ]  # fmt: skip
    rows = [{"sample_id": f"{at:02d}", "value": 0.1 * at} for at in range(4)]
    return evaluation(
        method, "randomisation", rows, role="gate", better=None, facts={"gate": entries}, **further
    )


def test_every_test_of_a_gate_has_a_column_with_verdict_and_interval() -> None:
    table = sanity_table(build_panels([gate("a", "failed")]))
    (row,) = table.to_dict("records")
    assert row["classifier"] == "CIFAR-10 · CNN"
    assert row["randomisation: upper half"] == "failed, 0.600 [.550, .650]"
    assert row["randomisation: all layers"] == "undecided"
    assert row["randomisation (smooth): upper half"] == "failed, 0.600 [.550, .650]"


def test_robustness_stands_beside_gates_and_measures_do_not() -> None:
    runs = [
        gate("b", "passed", control=True),
        gate("a", "failed"),
        values_run("a", "stability", 0.25, role="robustness"),
        values_run("a", "area", 0.5, better="lower"),
    ]
    table = sanity_table(build_panels(runs))
    assert list(table["map"]) == ["a", "b (control)"]
    assert list(table["stability (value)"]) == ["0.250 [.240, .260]", "–"]
    assert not any("area" in column for column in table.columns)


def test_a_test_under_two_settings_has_columns_of_its_own() -> None:
    strict, easy = gate("a", "failed"), gate("a", "passed")
    easy.found.settings = {"modes": "independent"}
    (row,) = sanity_table(build_panels([strict, easy])).to_dict("records")
    assert row["randomisation, modes=default: upper half"] == "failed, 0.600 [.550, .650]"
    assert row["randomisation, modes=independent: upper half"] == "passed, 0.600 [.550, .650]"


def test_runs_without_a_sanity_test_have_no_table() -> None:
    assert sanity_table(build_panels([values_run("a", "area", 0.5)])).empty


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_test_on_several_sets_of_images_the_largest_counts(order: int) -> None:
    few, many = gate("a", "failed"), gate("a", "passed")
    many.summary.data.images = few.summary.data.images + 100
    (row,) = sanity_table(build_panels([few, many][::order])).to_dict("records")
    assert row["randomisation: upper half"] == "passed, 0.600 [.550, .650]"
