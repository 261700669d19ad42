"""Bounds on a population's mean that hold however often one looks while it is being drawn."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saliency_lab.errors import UserError, unknown_choice

Kind = Literal["betting", "bernstein"]
KINDS = ("betting", "bernstein")

Floats = NDArray[np.float64]

# Bounds of the mean in [0, 1] are too wide by at most this.
RESOLUTION = 5e-5

# No bet loses more than this share of the capital.
_CAUTION = 0.5
_HALF = np.array([0.5])
# Candidates of the first, coarse look for a bound.
_COARSE = 257
# Each stretch of draws is that much longer than all before it.
_GROWTH = 0.25


def confidence_sequence(
    differences: ArrayLike, *, population: int, alpha: float = 0.05, kind: Kind = "betting"
) -> Floats:
    """Lower and upper bounds for a population's mean after each draw without replacement.

    With probability 1 − alpha at least, the mean lies between the bounds after all draws at
    once: one may stop at any of them, for any reason. The bounds only ever narrow, and they
    include what is certain, as the values not yet drawn lie in [−1, 1]; after the last draw they
    are the mean. Should they be about to cross before, which has probability alpha at most, they
    stay until then.

    `betting` excludes a candidate m once a gambler who bets that the mean is above it, or one
    who bets that it is below, would have multiplied a stake of ½ to 1/alpha. Exact but for
    rounding to a grid, which widens the bounds by at most 1e-4; see `log_capital`.
    `bernstein` is the predictable plug-in empirical Bernstein sequence, a closed form, wider.

    Args:
        differences: (n,), each in [−1, 1], in the order in which they were drawn.
        population: how many there are to draw from, n at least.
        alpha: the error that is allowed.
        kind: of the sequence.

    Returns:
        float64 (n, 2).

    Raises:
        UserError: differences that are no list of numbers in [−1, 1], more of them than the
            population, an alpha outside (0, 1), an unknown kind.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
    2023, sections 3.2, 4.4 and 5; the Bernstein sequence without replacement is that of
    "Confidence sequences for sampling without replacement", 2020, section 3.2.
    """
    if kind not in KINDS:
        raise unknown_choice("kind", kind, KINDS)
    drawn = _unit_values(differences, population, alpha)
    if kind == "betting":
        low = _betting_low(drawn, population, alpha)
        high = 1 - _betting_low(1 - drawn, population, alpha)
    else:
        low, high = _bernstein(drawn, population, alpha)
    seen = np.cumsum(drawn)
    draws = np.arange(1, len(drawn) + 1)
    low = np.maximum(low, seen / population)
    high = np.minimum(high, 1 - (draws - seen) / population)
    bounds = _narrowing(low, high)
    if len(drawn) == population:
        bounds[-1] = drawn.mean()
    return 2 * bounds - 1


def decided_signs(
    differences: ArrayLike, *, population: int, alpha: float = 0.05, kind: Kind = "betting"
) -> NDArray[np.int64]:
    """The sign of the population's mean as far as `confidence_sequence` knows it, (n,).

    1 or -1 from the draw on after which 0 is excluded, 0 before; the same error, without the
    search for the bounds themselves. After the last draw of all it is the sign of the mean.

    Args and Raises: see `confidence_sequence`.
    """
    drawn = _unit_values(differences, population, alpha)
    if kind == "betting":
        enough = math.log(2 / alpha)
        up = log_capital(drawn, _HALF, population, alpha)[:, 0] >= enough
        down = log_capital(1 - drawn, _HALF, population, alpha)[:, 0] >= enough
    else:
        low, high = _bernstein(drawn, population, alpha)
        up, down = low > 0.5, high < 0.5
    seen = np.cumsum(drawn)
    missing = np.arange(1, len(drawn) + 1) - seen
    up |= seen / population > 0.5 + 1e-12
    down |= missing / population > 0.5 + 1e-12
    found = up.astype(np.int64) - down
    first = np.flatnonzero(found)
    if len(first):
        found[first[0] :] = found[first[0]]
    if len(drawn) == population:
        mean = float(drawn.mean()) - 0.5
        found[-1] = 0 if abs(mean) <= 1e-12 else np.sign(mean)
    return found


def evidence(differences: ArrayLike, *, population: int, alpha: float = 0.05) -> Floats:
    """E-values against a mean of 0 after each draw, float64 (n,): large ones speak against it.

    The mean of both gamblers' capitals at 0. Whenever one stops, its expectation is at most 1 if
    the mean is 0, so that 1/e bounds the p-value and e-values of several comparisons can be put
    together, however they depend on each other (`e_benjamini_hochberg`).

    Args and Raises: see `confidence_sequence`; alpha only tunes the bets.
    """
    drawn = _unit_values(differences, population, alpha)
    up = log_capital(drawn, _HALF, population, alpha)[:, 0]
    down = log_capital(1 - drawn, _HALF, population, alpha)[:, 0]
    return np.exp(np.minimum(np.logaddexp(up, down) - math.log(2), 700.0))


def e_benjamini_hochberg(values: ArrayLike, alpha: float = 0.05) -> NDArray[np.bool_]:
    """Which of several e-values are discoveries, with a false discovery rate of alpha at most.

    The k largest are, for the largest k whose smallest is at least n / (alpha k).

    Args:
        values: (..., n) e-values, however they depend on each other; a family for each row.

    Source: Wang and Ramdas, "False discovery rate control with e-values", 2022.
    """
    e = np.asarray(values, dtype=np.float64)
    count = e.shape[-1]
    falling = -np.sort(-e, axis=-1)
    passed = falling * np.arange(1, count + 1) * alpha >= count
    # The last that passes: where the reversed row passes first.
    last = count - 1 - passed[..., ::-1].argmax(-1)
    least = np.take_along_axis(falling, last[..., None], axis=-1)
    return passed.any(-1, keepdims=True) & (e >= least)


def log_capital(drawn: Floats, candidates: Floats, population: int, alpha: float) -> Floats:
    """The logarithm of what a gambler has who bets that the mean is above each candidate.

    Π (1 + λ_i (X_i − m_i)), where m_i = (N m − Σ_{j<i} X_j) / (N − i + 1) is the mean of what is
    left if m is the mean, and λ_i = min(λ̇_i, ½ / m_i) with the plug-in bets λ̇ of `_bets`. It is
    a martingale from 1 if m is the mean, and it falls in m, so the excluded candidates are those
    below a bound. A candidate below what was seen already has infinite capital.

    Args:
        drawn: (n,) in [0, 1].
        candidates: (M,).

    Returns:
        (n, M).
    """
    before = np.concatenate([[0.0], np.cumsum(drawn)[:-1]])
    left = population - np.arange(len(drawn))
    rest = (population * candidates - before[:, None]) / left[:, None]
    possible = np.maximum(rest, 0)
    with np.errstate(divide="ignore"):
        bets = np.minimum(_bets(drawn, alpha)[:, None], _CAUTION / possible)
    gains = np.log1p(bets * (drawn[:, None] - possible))
    gains[rest < -1e-12] = np.inf
    return np.cumsum(gains, axis=0)


def _betting_low(drawn: Floats, population: int, alpha: float) -> Floats:
    """The largest excluded candidate of a fine grid after each draw.

    Stretch by stretch: a coarse grid tells between which candidates the bound lies, then a fine
    one between those says where.
    """
    enough = math.log(2 / alpha)
    found = np.zeros(len(drawn))
    start, low = 0, 0.0
    while start < len(drawn):
        stop = min(len(drawn), start + max(16, int(_GROWTH * start)))
        coarse = np.linspace(low, 1, _COARSE)
        ends = log_capital(drawn[:stop], coarse, population, alpha)[start:stop] >= enough
        # Capital falls in m: the candidates that some draw of the stretch excludes come first.
        last = int(ends.any(0).sum())
        top = coarse[min(last, _COARSE - 1)]
        steps = max(2, math.ceil((top - low) / RESOLUTION) + 1)
        # With ½, of which one wants to know.
        fine = np.union1d(np.linspace(low, top, steps), _HALF[(low < _HALF) & (top > _HALF)])
        excluded = _first_reached(drawn[:stop], fine, population, alpha, start, enough)
        found[start:stop] = np.where(excluded > 0, fine[np.maximum(excluded - 1, 0)], low)
        low = max(low, float(found[start:stop].max()))
        start = stop
    return found


def _first_reached(
    drawn: Floats, candidates: Floats, population: int, alpha: float, start: int, enough: float
) -> NDArray[np.int64]:
    """How many candidates are excluded after each draw from `start` on, some at a time."""
    counts = np.zeros(len(drawn) - start, dtype=np.int64)
    size = max(1, 2**22 // len(drawn))
    for first in range(0, len(candidates), size):
        capital = log_capital(drawn, candidates[first : first + size], population, alpha)
        counts += (capital[start:] >= enough).sum(1)
    return counts


def _bernstein(drawn: Floats, population: int, alpha: float) -> tuple[Floats, Floats]:
    bets = np.minimum(_bets(drawn, alpha), 0.5)
    left = population - np.arange(len(drawn))
    before = np.concatenate([[0.0], np.cumsum(drawn)[:-1]])
    weights = np.cumsum(bets * population / left)
    centre = np.cumsum(bets * (drawn + before / left)) / weights
    draws = np.arange(1, len(drawn) + 1)
    guessed = (0.5 + before) / draws
    penalty = (-np.log1p(-bets) - bets) / 4
    width = math.log(2 / alpha) + np.cumsum(4 * (drawn - guessed) ** 2 * penalty)
    return centre - width / weights, centre + width / weights


def _bets(drawn: Floats, alpha: float) -> Floats:
    """√(2 ln(2/α) / (σ̂²_{t−1} t ln(1 + t))), from the draws before each."""
    draws = np.arange(1, len(drawn) + 1)
    means = (0.5 + np.cumsum(drawn)) / (draws + 1)
    variances = (0.25 + np.cumsum((drawn - means) ** 2)) / (draws + 1)
    earlier = np.concatenate([[0.25], variances[:-1]])
    return np.sqrt(2 * math.log(2 / alpha) / (earlier * draws * np.log1p(draws)))


def _narrowing(low: Floats, high: Floats) -> Floats:
    bounds = np.stack([np.maximum.accumulate(low), np.minimum.accumulate(high)], 1)
    bounds[:, 0] = np.maximum(bounds[:, 0], 0)
    bounds[:, 1] = np.minimum(bounds[:, 1], 1)
    crossed = np.flatnonzero(bounds[:, 0] > bounds[:, 1] + 1e-12)
    if len(crossed) and crossed[0] > 0:
        bounds[crossed[0] :] = bounds[crossed[0] - 1]
    return bounds


def _unit_values(differences: ArrayLike, population: int, alpha: float) -> Floats:
    """The differences as numbers in [0, 1]."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (np.abs(values) <= 1).all():
        largest = f" with values up to {np.abs(values).max()}" if values.size else ""
        raise UserError(
            "Expected `differences` to be one list of numbers in [-1, 1], "
            f"but got shape {values.shape}{largest}."
        )
    if population < len(values):
        raise UserError(
            f"Expected `population` to be {len(values)} or more, as that many were drawn, "
            f"but got {population}."
        )
    if not 0 < alpha < 1:
        raise UserError(f"Expected `alpha` to be between 0 and 1, but got {alpha}.")
    return (values + 1) / 2
