"""Verdicts of several measures: who wins, who objects, and what too few say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.panel.votes import agreed_sign, pair_verdicts, twin_table


@pytest.mark.parametrize(
    ("votes", "sign"),
    [
        ([1, 1, 1, 1, 0, 0], 1),
        ([1, 1, 1, 0, 0, 0], 0),
        ([1, 1, 1, 1, 1, -1], 0),
        ([-1, -1, 0, -1, -1, 0], -1),
        ([0] * 6, 0),
    ],
)
def test_four_agree_and_none_objects(votes: list[int], sign: int) -> None:
    assert int(agreed_sign(votes)) == sign
    assert agreed_sign([votes, [-v for v in votes]]).tolist() == [sign, -sign]


def drawn(gaps: dict[str, float], version: str = "map") -> pd.DataFrame:
    """Two views whose values differ by a gap that each measure has of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for measure, gap in gaps.items():
        base = rng.normal(0, 0.1, 60)
        for view, shift in (("active", gap), ("original", 0.0)):
            for image, value in enumerate(base + shift + rng.normal(0, 0.05, 60)):
                rows.append((f"i{image}", view, measure, version, value))
    return pd.DataFrame(rows, columns=["sample_id", "view", "measure", "version", "value"])


def test_a_view_wins_by_four_measures() -> None:
    (verdict,) = pair_verdicts(drawn({"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1, "e": 0.0}))
    assert (verdict["a"], verdict["b"], verdict["verdict"]) == ("active", "original", "active")
    assert verdict["for_a"] == ["a", "b", "c", "d"]
    assert verdict["for_b"] == []
    (torn,) = pair_verdicts(drawn({"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1, "e": -0.1}))
    assert torn["verdict"] == "undecided"
    assert torn["for_b"] == ["e"]
    (other,) = pair_verdicts(drawn(dict.fromkeys("abcd", -0.1)))
    assert other["verdict"] == "original"


def test_measures_without_values_for_a_pair_do_not_vote() -> None:
    scores = drawn(dict.fromkeys("abcd", 0.1))
    kept = scores[(scores["measure"] != "d") | (scores["view"] == "active")]
    (verdict,) = pair_verdicts(kept)
    assert verdict["for_a"] == ["a", "b", "c"]
    assert verdict["verdict"] == "undecided"


def test_the_twin_wins_where_it_is_better() -> None:
    maps = drawn({"a": 0.0, "b": 0.0})
    twins = maps.assign(
        version="twin", value=maps["value"] + np.where(maps["measure"] == "a", 1, -1)
    )
    found = twin_table(pd.concat([maps, twins]))
    assert {(row["view"], row["measure"]): row["twin_wins"] for row in found} == {
        ("active", "a"): True,
        ("active", "b"): False,
        ("original", "a"): True,
        ("original", "b"): False,
    }
    assert found[0]["difference"] == pytest.approx(-1)
    assert twin_table(maps) == []
    # One image decides nothing.
    one = pd.concat([maps, twins]).query("sample_id == 'i0'")
    assert not any(row["twin_wins"] for row in twin_table(one))


def test_a_twin_wins_by_more_than_chance_over_many_views() -> None:
    rng = np.random.default_rng(1)
    rows = [
        {
            "sample_id": f"i{at}",
            "view": f"v{view}",
            "measure": "a",
            "version": version,
            "value": one,
        }
        for view in range(200)
        for version in ("map", "twin")
        for at, one in enumerate(rng.normal(size=30))
    ]
    found = twin_table(pd.DataFrame(rows))
    assert sum(row["high"] < 0 for row in found) > 3
    assert sum(row["twin_wins"] for row in found) == 0
