"""Comparisons that are made once, and again when anything of them has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.panel.votes import pair_verdicts
from saliency_lab.evaluation.rows.significance import paired_difference
from saliency_lab.report.comparing import known
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Panel
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.drawing.axes import Axis
from saliency_lab.report.page import examples, sections
from saliency_lab.report.page.page import write_report
from saliency_lab.report.reading.records import EvaluationRun, read_records

from ..rundirs import write_evaluation

RNG = np.random.default_rng(3)
A, B = RNG.random(80), RNG.random(80)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def counted(a: np.ndarray, b: np.ndarray) -> Any:
        made.append(len(a))
        return paired_difference(a, b)

    monkeypatch.setattr(known, "paired_difference", counted)
    return made


def test_a_difference_is_made_once_and_is_the_same_to_the_last_bit(
    tmp_path: Path, calls: list[int]
) -> None:
    first = Known(tmp_path / "known.json")
    assert first.difference(A, B) == paired_difference(A, B)
    first.save()
    again = Known(tmp_path / "known.json")
    assert again.difference(A, B) == paired_difference(A, B)
    assert calls == [80]
    # The other way round, other numbers and other lengths are other comparisons.
    changed = A.copy()
    changed[7] += 1e-12
    for a, b in ((B, A), (changed, B), (A[:-1], B[:-1])):
        assert again.difference(a, b) == paired_difference(a, b)
    assert calls == [80, 80, 80, 79]


def test_what_is_not_asked_for_is_forgotten(tmp_path: Path, calls: list[int]) -> None:
    path = tmp_path / "known.json"
    for a, b in ((A, B), (B, A), (A, B)):
        one = Known(path)
        one.difference(a, b)
        one.save()
    assert len(calls) == 3


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"x": '])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    one = Known(path)
    assert one.difference(A, B) == paired_difference(A, B)
    one.save()
    assert Known(path).difference(A, B) == paired_difference(A, B)


def test_another_program_makes_its_own(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Known(tmp_path / "known.json")
    one.difference(A, B)
    one.save()
    monkeypatch.setattr(known, "_program", lambda: b"other")
    Known(tmp_path / "known.json").difference(A, B)
    assert len(calls) == 2


def test_a_table_of_votes_is_known_by_its_rows_and_settings(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"sample_id": str(image), "view": view, "measure": measure, "version": "map",
         "value": float(RNG.random()) + (view == "a")}
        for image in range(20) for view in "ab" for measure in "mno"
    )  # fmt: skip
    first = Known(tmp_path / "known.json")
    expected = pair_verdicts(rows, least=2)
    assert expected[0]["verdict"] == "a"
    assert first.table(pair_verdicts, rows, least=2) == expected
    first.save()

    def never(scores: pd.DataFrame, **settings: Any) -> list[dict[str, Any]]:
        raise AssertionError("asked for again")

    never.__name__ = "pair_verdicts"
    again = Known(tmp_path / "known.json")
    assert again.table(never, rows, least=2) == expected
    for scores, settings in ((rows, {"least": 3}), (rows.iloc[::-1], {"least": 2})):
        with pytest.raises(AssertionError, match="asked for again"):
            again.table(never, scores, **settings)


def _total(*arrays: np.ndarray) -> list[float]:
    TOTALS.append(len(arrays))
    return [float(each.sum()) for each in arrays]


TOTALS: list[int] = []


def test_a_result_is_made_anew_for_other_numbers_shapes_and_program_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TOTALS.clear()
    path = tmp_path / "known.json"

    def asked(*arrays: np.ndarray) -> list[float]:
        one = Known(path)
        found: list[float] = one.result(_total, *arrays)
        one.save()
        return found

    expected = [float(A.sum()), float(B.sum())]
    assert asked(A, B) == expected
    assert asked(A, B) == expected
    assert len(TOTALS) == 1
    changed = A.copy()
    changed[3] = np.nextafter(changed[3], 2)
    for count, arrays in enumerate(((changed, B), (A.reshape(8, 10), B), (A,), (B, A)), start=2):
        assert asked(*arrays) == [float(each.sum()) for each in arrays]
        assert len(TOTALS) == count
    asked(A, B)
    monkeypatch.setattr(known, "_text", lambda module: b"another version")
    asked(A, B)
    assert len(TOTALS) == 7


def _content(path: Path) -> str:
    TOTALS.append(1)
    return path.read_text()


def test_a_file_is_read_again_when_it_was_written_again(tmp_path: Path) -> None:
    TOTALS.clear()
    kept, file = tmp_path / "known.json", tmp_path / "examples"
    file.write_text("one")

    def asked() -> object:
        one = Known(kept)
        found = one.of_file(_content, file)
        one.save()
        return found

    assert [asked(), asked()] == ["one", "one"]
    assert len(TOTALS) == 1
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    time.sleep(0.02)  # a file system may count time in steps of some milliseconds
    file.write_text("two")
    # As long and, as far as programs can set it, as old: the time of change tells.
    os.utime(file, ns=times)
    assert asked() == "two"
    (tmp_path / "other").write_text("six")
    (tmp_path / "other").replace(file)
    assert asked() == "six"
    file.unlink()
    with pytest.raises(FileNotFoundError):
        asked()


SMALL: dict[str, Any] = {"count": 12, "size": 8, "shown": 4, "fills": ["black"]}


def _titles(panel: Panel) -> list[object]:
    TOTALS.append(len(panel.maps))
    return [panel.title, (panel.curves_over, [one.label for one in panel.maps])]


def test_a_panel_is_asked_again_when_its_runs_or_its_names_have_changed(tmp_path: Path) -> None:
    TOTALS.clear()
    write_evaluation(tmp_path, **SMALL, name="paper/seed-42")
    run = write_evaluation(tmp_path, **SMALL, model="basic_cnn", name="paper/seed-42")

    def asked(curves_over: Axis = "fraction") -> list[Any]:
        one = Known(tmp_path / "known.json")
        panels = build_panels(read_records(tmp_path).evaluations)
        for panel in panels:
            panel.curves_over = curves_over
        found = [one.of_panel(_titles, panel) for panel in panels]
        one.save()
        return found

    first = asked()
    assert [found[1][0] for found in first] == ["fraction", "fraction"]
    assert asked() == first
    assert len(TOTALS) == 2
    (run / "deletion-curves.csv").touch()
    assert asked() == first
    assert len(TOTALS) == 3
    write_evaluation(tmp_path, **SMALL, method="smoothgrad", name="smooth/seed-42")
    assert len(asked()) == 2
    assert len(TOTALS) == 4
    assert {found[1][0] for found in asked("deleted")} == {"deleted"}
    assert len(TOTALS) == 6


def test_a_panel_of_an_evaluator_from_elsewhere_is_asked_each_time(tmp_path: Path) -> None:
    TOTALS.clear()
    write_evaluation(tmp_path, **SMALL)
    (panel,) = build_panels(read_records(tmp_path).evaluations)
    panel.found.sections = "somebodys.own"
    one = Known(tmp_path / "known.json")
    assert [one.of_panel(_titles, panel) for _ in range(2)] == [_titles(panel)] * 2
    assert len(TOTALS) == 3


def _differences(panel: Panel, known: Known) -> list[float]:
    """One comparison for each map of a panel, each asked of what is known."""
    found = []
    for one in panel.maps:
        scores = panel.scores.loc[panel.scores["key"] == one.key, "allegiance"].to_numpy(np.float64)
        found.append(known.difference(scores, np.zeros_like(scores)).difference)
    return found


def _all_differences(panels: Sequence[Panel], known: Known) -> list[list[float]]:
    return [known.within(_differences, panel) for panel in panels]


@pytest.mark.parametrize("several", [False, True], ids=["of a panel", "of all panels"])
def test_what_lies_within_a_known_answer_stays_known(
    tmp_path: Path, calls: list[int], several: bool
) -> None:
    run = write_evaluation(tmp_path, **SMALL)
    calls.clear()

    def asked() -> Any:
        one = Known(tmp_path / "known.json")
        panels = build_panels(read_records(tmp_path).evaluations)
        calls.clear()  # building them compares, too
        if several:
            found = one.within_all(_all_differences, panels)
        else:
            found = one.within(_differences, panels[0])
        one.save()
        return found

    first = asked()
    assert len(calls) == 5
    assert asked() == first
    assert calls == []
    # The answer itself is no longer known; what it was made of was asked for by nobody since.
    (run / "deletion-curves.csv").touch()
    assert asked() == first
    assert calls == []


def _not_read(*_: object) -> None:
    raise AssertionError("read again")


def test_a_page_made_with_what_is_known_is_the_same_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluation(tmp_path, **SMALL, name="paper/seed-42")
    report = tmp_path / "report"
    first = write_report(tmp_path, None, report)
    files = [first.page, *first.tables, *first.figures]
    before = [file.read_bytes() for file in files]

    def never(panel: Panel) -> None:
        raise AssertionError("asked for again")

    never.__module__, never.__qualname__ = sections.__name__, "panel_section"
    monkeypatch.setattr(sections, "panel_section", never)
    monkeypatch.setattr(EvaluationRun, "scores", property(_not_read))
    monkeypatch.setattr(examples, "example_maps", _not_read)
    write_report(tmp_path, None, report)
    assert [file.read_bytes() for file in files] == before
    (report / ".comparisons.json").unlink()
    with pytest.raises(AssertionError, match="again"):
        write_report(tmp_path, None, report)
