"""When to stop and what to say: one pair, several, and later looks at the same images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.decisions import Rule, decisions, permutation
from saliency_lab.evaluation.rows.sequences import confidence_sequence


def drawn(mean: float, number: int = 300, seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, number), -1, 1)


def test_it_stops_at_the_first_image_whose_bounds_exclude_0() -> None:
    values = drawn(0.1)
    (found,) = decisions([values], 1000, Rule())
    bounds = confidence_sequence(values, population=1000)
    first = next(at for at, (low, _) in enumerate(bounds) if low >= 0) + 1
    assert (found.verdict, found.images, found.stopped) == ("a", first, True)
    assert found.difference == pytest.approx(values[:first].mean())
    assert (found.low, found.high) == pytest.approx(tuple(bounds[first - 1]), abs=2e-4)
    (lower,) = decisions([values], 1000, Rule(), lower_is_better=True)
    assert dataclasses.replace(lower, verdict="a") == found
    assert lower.verdict == "b"
    (other,) = decisions([-values], 1000, Rule())
    assert other.verdict == "b"


def test_more_images_change_nothing_of_a_stop() -> None:
    values = drawn(0.1)
    (found,) = decisions([values], 1000, Rule())
    (early,) = decisions([values[: found.images + 3]], 1000, Rule())
    assert early == found
    (before,) = decisions([values[: found.images - 1]], 1000, Rule())
    assert (before.verdict, before.stopped) == ("undecided", False)


def test_least_and_tolerance() -> None:
    values = drawn(0.1)
    (longer,) = decisions([values], 1000, Rule(least=250))
    assert (longer.verdict, longer.images) == ("a", 250)
    (none,) = decisions([drawn(0.0)], 1000, Rule(tolerance=0.2))
    assert none.verdict == "undecided"
    assert none.stopped
    assert none.images < 300
    assert none.high - none.low < 0.2
    (open_end,) = decisions([drawn(0.0)], 1000, Rule())
    assert (open_end.verdict, open_end.stopped, open_end.images) == ("undecided", False, 300)


def test_all_images_end_it() -> None:
    values = np.array([0.1, -0.1] * 20)
    (found,) = decisions([values], 40, Rule())
    assert (found.verdict, found.stopped, found.images) == ("undecided", True, 40)
    (found,) = decisions([values + 0.001], 40, Rule())
    # The last image leaves no doubt of the mean.
    assert (found.verdict, found.images) == ("a", 40)


def test_differences_are_in_units_of_the_score() -> None:
    values = drawn(0.1)
    (unit,) = decisions([values], 1000, Rule())
    (wide,) = decisions([5 * values], 1000, Rule(), span=5)
    assert (wide.verdict, wide.images) == (unit.verdict, unit.images)
    assert wide.low == pytest.approx(5 * unit.low)
    assert wide.difference == pytest.approx(5 * unit.difference)


def test_several_pairs_share_the_error() -> None:
    pairs = [drawn(0.1), drawn(-0.1, seed=1), drawn(0.0, seed=2)]
    found = decisions(pairs, 1000, Rule(alpha=0.06))
    assert [one.alpha for one in found] == pytest.approx([0.02] * 3)
    assert [one.verdict for one in found] == ["a", "b", "undecided"]
    (alone,) = decisions(pairs[:1], 1000, Rule(alpha=0.06 / 3))
    assert found[0] == alone


def test_e_values_stop_all_pairs_together() -> None:
    pairs = [drawn(0.1), drawn(-0.15, seed=1)]
    found = decisions(pairs, 1000, Rule(correction="e-bh"))
    assert [one.verdict for one in found] == ["a", "b"]
    assert found[0].images == found[1].images < 300
    mixed = decisions([*pairs, drawn(0.0, seed=2)], 1000, Rule(correction="e-bh"))
    assert [one.stopped for one in mixed] == [False] * 3
    half = drawn(0.0, 150, seed=2)
    even = np.stack([half, -half], 1).ravel()
    ended = decisions([*pairs, even], 300, Rule(correction="e-bh"))
    assert [one.verdict for one in ended] == ["a", "b", "undecided"]


def test_when_all_images_are_drawn_the_sign_is_known_under_either_correction() -> None:
    pairs = [drawn(0.02, 60), drawn(-0.01, 60, seed=5)]
    wanted = ["a" if values.mean() > 0 else "b" for values in pairs]
    for correction in ("e-bh", "bonferroni"):
        found = decisions(pairs, 60, Rule(correction=correction))
        assert [one.verdict for one in found] == wanted


def test_the_order_is_a_permutation_by_the_seed_alone() -> None:
    order = permutation(100, 7)
    assert sorted(order) == list(range(100))
    assert order == permutation(100, 7)
    assert order != permutation(100, 8)


def test_wrong_rules_are_refused() -> None:
    for settings in ({"alpha": 0}, {"tolerance": -1}, {"least": -1}, {"correction": "holm"}):
        with pytest.raises(UserError, match=next(iter(settings))):
            Rule(**settings)
