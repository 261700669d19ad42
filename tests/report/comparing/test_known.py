"""Comparisons that are made once, and again when anything of them has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.panel.votes import pair_verdicts
from saliency_lab.evaluation.rows.statistics import paired_difference
from saliency_lab.report.comparing import known
from saliency_lab.report.comparing.known import Known

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
