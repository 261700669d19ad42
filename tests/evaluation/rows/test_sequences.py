"""Bounds at any time: against the published formulas, all orders of small populations, replays."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.sequences import (
    confidence_sequence,
    decided_signs,
    e_benjamini_hochberg,
    evidence,
    log_capital,
)


def slow_capital(drawn: list[float], m: float, population: int, alpha: float) -> list[float]:
    """Π (1 + λ_i (X_i − m_i)) with the plug-in bets cut at ½ / m_i, number by number."""
    capital, found = 1.0, []
    for place, value in enumerate(drawn):
        before = drawn[:place]
        means = [(0.5 + sum(before[: i + 1])) / (i + 2) for i in range(place)]
        spread = 0.25 + sum((x - mean) ** 2 for x, mean in zip(before, means, strict=True))
        variance, t = spread / (place + 1), place + 1
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(1 + t)))
        rest = (population * m - sum(before)) / (population - place)
        capital *= 1 + min(bet, 0.5 / rest) * (value - rest)
        found.append(capital)
    return found


def test_capital_is_the_published_product() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.random(12)
    for m in (0.45, 0.6):
        expected = slow_capital(drawn.tolist(), m, 40, 0.1)
        found = log_capital(drawn, np.array([m]), 40, 0.1)[:, 0]
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9)


def test_bounds_are_where_the_capital_reaches_its_goal() -> None:
    """A search over 401 candidates, one by one, both gamblers, nothing shared with the code."""
    rng = np.random.default_rng(1)
    differences = np.clip(rng.normal(0.1, 0.3, 60), -1, 1)
    unit = ((differences + 1) / 2).tolist()
    found = confidence_sequence(differences, population=2000, alpha=0.1)
    grid = np.linspace(0, 1, 401)
    alive = np.ones(401, dtype=bool)
    seen = 0.0
    capitals = {}
    for place, m in enumerate(grid):
        feasible = sum(unit) / 2000 <= m <= 1 - (60 - sum(unit)) / 2000
        if feasible and 0 < m < 1:
            up = slow_capital(unit, m, 2000, 0.1)
            down = slow_capital([1 - x for x in unit], 1 - m, 2000, 0.1)
            capitals[place] = np.maximum(up, down) / 2
    for t, value in enumerate(unit):
        seen += value
        low, high = (found[t] + 1) / 2
        assert low >= seen / 2000 - 1e-12
        assert high <= 1 - (t + 1 - seen) / 2000 + 1e-12
        for place, capital in capitals.items():
            if capital[t] >= 1 / 0.1:
                alive[place] = False
            if alive[place]:
                assert low - 1e-9 <= grid[place] <= high + 1e-9
            else:
                assert not low + 1e-4 < grid[place] < high - 1e-4
    assert 50 < alive.sum() < 300


def test_over_all_orders_the_capital_neither_grows_nor_falls_at_the_mean() -> None:
    population = np.array([0.0, 0.1, 0.5, 0.9, 1.0, 1.0])
    mean = np.array([population.mean()])
    orders = [population[list(order)] for order in itertools.permutations(range(6))]
    for drawn in (orders, [1 - order for order in orders]):
        m = mean if drawn is orders else 1 - mean
        capitals = np.stack([np.exp(log_capital(order, m, 6, 0.05)[:, 0]) for order in drawn])
        np.testing.assert_allclose(capitals.mean(0), 1, atol=1e-12)


@pytest.mark.parametrize("kind", ["betting", "bernstein"])
@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_over_all_orders_the_mean_is_rarely_left_out(kind: str, alpha: float) -> None:
    for population in ([-1, -1, 1, 1, 1], [-0.2, 0.1, 0.1, 0.5, 0.9], [0, 0, 0, 0, 1]):
        orders = [list(order) for order in itertools.permutations(population)]
        mean, missed = np.mean(population), 0
        for order in orders:
            bounds = confidence_sequence(order, population=5, alpha=alpha, kind=kind)
            inside = (bounds[:, 0] <= mean + 1e-9) & (mean <= bounds[:, 1] + 1e-9)
            missed += not inside.all()
            assert (np.diff(bounds[:-1, 0]) >= 0).all()
            assert (np.diff(bounds[:-1, 1]) <= 0).all()
            # Whatever was thought on the way, nothing is left to chance in the end.
            assert bounds[-1] == pytest.approx([mean, mean], abs=1e-12)
            assert decided_signs(order, population=5, alpha=alpha, kind=kind)[-1] == np.sign(mean)
        assert missed / len(orders) <= alpha


def test_replays_without_a_difference_rarely_decide() -> None:
    """Populations whose mean is 0 exactly; 0 is excluded as soon as either capital reaches 2/α."""
    rng = np.random.default_rng(3)
    false, replays = 0, 1000
    for _ in range(replays):
        half = np.clip(np.abs(rng.normal(0, 0.2, 150)), 0, 1)
        drawn = (rng.permutation(np.concatenate([half, -half])) + 1) / 2
        m = np.array([0.5])
        up, down = log_capital(drawn, m, 300, 0.05), log_capital(1 - drawn, m, 300, 0.05)
        false += bool(max(up.max(), down.max()) >= math.log(2 / 0.05))
    assert 0 < false / replays <= 0.05


def test_a_difference_is_found_and_betting_finds_it_sooner() -> None:
    rng = np.random.default_rng(4)
    drawn = np.clip(rng.normal(0.05, 0.15, 600), -1, 1)
    needed = {}
    for kind in ("betting", "bernstein"):
        bounds = confidence_sequence(drawn, population=10_000, kind=kind)
        needed[kind] = int(np.flatnonzero(bounds[:, 0] > 0)[0]) + 1
        assert bounds[-1, 0] < 0.05 < bounds[-1, 1]
    assert 40 < needed["betting"] < needed["bernstein"] < 600


@pytest.mark.parametrize("kind", ["betting", "bernstein"])
def test_signs_are_known_when_0_is_excluded(kind: str) -> None:
    for mean, seed in ((0.08, 0), (-0.08, 1), (0.0, 2)):
        drawn = np.clip(np.random.default_rng(seed).normal(mean, 0.15, 250), -1, 1)
        bounds = confidence_sequence(drawn, population=300, kind=kind)
        signs = decided_signs(drawn, population=300, kind=kind)
        assert signs.tolist() == [1 if low >= 0 else -1 if high <= 0 else 0 for low, high in bounds]
    assert decided_signs([0.5, -0.5], population=2).tolist() == [0, 0]
    assert decided_signs([0.5, -0.4], population=2).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["betting", "bernstein"])
def test_what_was_thought_on_the_way_gives_way_to_all_of_them(kind: str) -> None:
    drawn = np.repeat([-1.0, 1.0], [60, 61])
    signs = decided_signs(drawn, population=121, kind=kind)
    bounds = confidence_sequence(drawn, population=121, kind=kind)
    assert signs[-2] == -1
    assert bounds[-2, 1] < 0
    assert signs[-1] == 1
    assert bounds[-1] == pytest.approx([1 / 121] * 2)
    assert decided_signs(drawn[:-1], population=120, kind=kind)[-1] == 0


def test_the_last_draw_leaves_the_mean() -> None:
    differences = np.random.default_rng(5).uniform(-0.4, 0.5, 50)
    for kind in ("betting", "bernstein"):
        last = confidence_sequence(differences, population=50, kind=kind)[-1]
        np.testing.assert_allclose(last, differences.mean(), atol=1e-9)


def test_bernstein_is_the_published_formula_in_a_large_population() -> None:
    rng = np.random.default_rng(6)
    drawn = rng.random(30)
    bounds = confidence_sequence(2 * drawn - 1, population=10**12, alpha=0.05, kind="bernstein")
    bets, terms, weighted, low, high = 0.0, 0.0, 0.0, 0.0, 1.0
    for i, value in enumerate(drawn):
        means = [(0.5 + drawn[: j + 1].sum()) / (j + 2) for j in range(i)]
        variance = (0.25 + ((drawn[:i] - means) ** 2).sum()) / (i + 1)
        bet = math.sqrt(2 * math.log(40) / (variance * (i + 1) * math.log(i + 2)))
        bet = min(0.5, bet)
        guess = (0.5 + drawn[:i].sum()) / (i + 1)
        terms += 4 * (value - guess) ** 2 * (-math.log(1 - bet) - bet) / 4
        bets, weighted = bets + bet, weighted + bet * value
        low = max(low, weighted / bets - (math.log(40) + terms) / bets)
        high = min(high, weighted / bets + (math.log(40) + terms) / bets)
        np.testing.assert_allclose((bounds[i] + 1) / 2, [low, high], atol=1e-9)


def test_evidence_averages_to_one_without_a_difference_and_grows_with_one() -> None:
    population = [-0.9, -0.2, 0.1, 1.0]
    orders = itertools.permutations(population)
    values = np.stack([evidence(list(order), population=4) for order in orders])
    np.testing.assert_allclose(values.mean(0), 1, atol=1e-12)
    rng = np.random.default_rng(7)
    strong = evidence(np.clip(rng.normal(-0.2, 0.1, 200), -1, 1), population=5000)
    assert strong[-1] > 1e6


def test_e_values_are_put_together() -> None:
    # Sorted 100, 30, 21, 1: 4/(0.05 k) is 80, 40, 26.7, 20.
    assert e_benjamini_hochberg([1, 100, 30, 21]).tolist() == [False, True, False, False]
    # 41 passes the second place, and 27 the third.
    assert e_benjamini_hochberg([41, 45, 27, 1]).tolist() == [True, True, True, False]
    assert not e_benjamini_hochberg([1.0, 19.0]).any()
    assert e_benjamini_hochberg([20.0]).all()
    rows = e_benjamini_hochberg([[1, 100, 30, 21], [41, 45, 27, 1], [1, 1, 1, 1]])
    assert rows.sum(1).tolist() == [1, 3, 0]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="`differences`"):
        confidence_sequence([0.1, 1.2], population=5)
    with pytest.raises(UserError, match="`differences`"):
        confidence_sequence([0.1, math.nan], population=5)
    with pytest.raises(UserError, match="`differences`"):
        confidence_sequence([], population=5)
    with pytest.raises(UserError, match="`population` to be 3"):
        confidence_sequence([0.1, 0.2, 0.3], population=2)
    with pytest.raises(UserError, match="`alpha`"):
        confidence_sequence([0.1], population=2, alpha=1)
    with pytest.raises(UserError, match="`kind` to be one of betting, bernstein"):
        confidence_sequence([0.1], population=2, kind="hoeffding")
