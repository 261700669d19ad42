"""When enough images were drawn to say which of two maps is better, and which it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.rows.sequences import (
    KINDS,
    Floats,
    Kind,
    confidence_sequence,
    decided_signs,
    e_benjamini_hochberg,
    evidence,
)

Correction = Literal["bonferroni", "e-bh"]
CORRECTIONS = ("bonferroni", "e-bh")
Verdict = Literal["a", "b", "undecided"]


# Of a sum of scores in [−1, 1], per summand.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Rule:
    """When to stop; to be chosen before looking.

    Attributes:
        alpha: the error allowed for all pairs together: the probability of any false verdict
            (`bonferroni`, which divides it among the pairs), or the expected share of false ones
            among the verdicts (`e-bh`).
        tolerance: stop as well once bounds are closer than this, in units of the score; 0: never.
        least: draw so many images in any case.
        kind: of the confidence sequence.
        correction: for several pairs; one pair needs none.
    """

    alpha: float = 0.05
    tolerance: float = 0.0
    least: int = 0
    kind: Kind = "betting"
    correction: Correction = "bonferroni"

    def __post_init__(self) -> None:
        if self.correction not in CORRECTIONS:
            raise unknown_choice("correction", self.correction, CORRECTIONS)
        if self.kind not in KINDS:
            raise unknown_choice("kind", self.kind, KINDS)
        if not 0 < self.alpha < 1:
            raise UserError(f"Expected `alpha` to be between 0 and 1, but got {self.alpha}")
        for name in ("tolerance", "least"):
            if not getattr(self, name) >= 0:
                raise UserError(f"Expected `{name}` to be 0 or more, but got {getattr(self, name)}")


@dataclass(frozen=True)
class Stop:
    """Where a pair stops.

    Attributes:
        images: drawn until then, or so far.
        stopped: whether the rule is met.
        sign: of the mean difference; 0 where it is not known or no stop was reached.
    """

    images: int
    stopped: bool
    sign: int


@dataclass(frozen=True)
class Decision:
    """What the images drawn until a pair's stop say of it.

    Attributes:
        verdict: which map is better, or that it is not known.
        images: how many were drawn until the stop; all later ones are left aside.
        difference: mean of a − b over these. Stopping at a convenient moment biases it.
        low, high: bounds on the population's mean difference.
        alpha: of these bounds.
        stopped: whether the rule was met; otherwise more images are wanted.
    """

    verdict: Verdict
    images: int
    difference: float
    low: float
    high: float
    alpha: float
    stopped: bool


def decisions(
    differences: Sequence[Floats],
    population: int,
    rule: Rule,
    *,
    span: float = 1.0,
    lower_is_better: bool = False,
) -> list[Decision]:
    """A decision for each pair from the paired differences drawn so far.

    Under `bonferroni` each pair stops by itself: its bounds exclude 0, or are closer than the
    tolerance, or no image is left. Under `e-bh` all stop together: at the first image after which
    all of them are discoveries or close enough, or at the end; verdicts are the discoveries then.

    Args:
        differences: per pair a − b of the images in the order of drawing, (n,), all of one length.
        population: images that there are.
        span: what the differences are divided by to lie in [−1, 1]: the score's range.
        lower_is_better: of the score.
    """
    halts = stops(differences, population, rule, span=span)
    alpha = _alpha(rule, len(differences))
    return [
        _decision(values, population, halt, rule, alpha, span, lower_is_better)
        for values, halt in zip(differences, halts, strict=True)
    ]


def stops(
    differences: Sequence[Floats], population: int, rule: Rule, *, span: float = 1.0
) -> list[Stop]:
    """Where each pair stops; bounds are only found where the tolerance needs them."""
    alpha = _alpha(rule, len(differences))
    scaled = [np.asarray(values, dtype=np.float64) / span for values in differences]
    close = [_close(values, population, rule, alpha, span) for values in scaled]
    if rule.correction == "bonferroni" or len(scaled) == 1:
        signs = [
            decided_signs(values, population=population, alpha=alpha, kind=rule.kind)
            for values in scaled
        ]
        return [
            _stop((sign != 0) | near, sign, population, rule.least)
            for sign, near in zip(signs, close, strict=True)
        ]
    against = [evidence(values, population=population, alpha=rule.alpha) for values in scaled]
    found = e_benjamini_hochberg(np.stack(against, 1), rule.alpha)
    met = np.asarray((found | np.stack(close, 1)).all(1))
    # A discovery has the sign of the mean so far.
    means = np.stack([np.cumsum(values) for values in scaled], 1)
    discovered = np.where(found, np.sign(means), 0).astype(np.int64)
    if len(means) == population:  # nothing is left to chance
        known = np.abs(means[-1]) > _ROUNDING * population
        discovered[-1] = np.where(known, np.sign(means[-1]), 0)
    return [_stop(met, sign, population, rule.least) for sign in discovered.T]


def permutation(size: int, seed: int) -> list[int]:
    """The order in which the images of a split are drawn, whatever else the seed decides."""
    return [int(place) for place in np.random.default_rng([seed, 0xC0]).permutation(size)]


def _alpha(rule: Rule, count: int) -> float:
    """The error of each pair's own bounds."""
    return rule.alpha / count if rule.correction == "bonferroni" else rule.alpha


def _close(
    scaled: Floats, population: int, rule: Rule, alpha: float, span: float
) -> NDArray[np.bool_]:
    if not rule.tolerance:
        return np.zeros(len(scaled), dtype=bool)
    edges = confidence_sequence(scaled, population=population, alpha=alpha, kind=rule.kind)
    close: NDArray[np.bool_] = span * (edges[:, 1] - edges[:, 0]) < rule.tolerance
    return close


def _stop(met: NDArray[np.bool_], signs: NDArray[np.int64], population: int, least: int) -> Stop:
    drawn = len(met)
    reached = np.flatnonzero(met[max(least - 1, 0) :])
    images = int(reached[0]) + max(least, 1) if len(reached) else drawn
    stopped = bool(len(reached)) or drawn == population
    return Stop(images, stopped, int(signs[images - 1]) if stopped else 0)


def _decision(
    differences: Floats,
    population: int,
    halt: Stop,
    rule: Rule,
    alpha: float,
    span: float,
    lower_is_better: bool,
) -> Decision:
    until = np.asarray(differences, dtype=np.float64)[: halt.images]
    bounds = confidence_sequence(until / span, population=population, alpha=alpha, kind=rule.kind)
    low, high = span * bounds[-1]
    verdict: Verdict = "undecided"
    if halt.sign:
        verdict = "a" if (halt.sign > 0) != lower_is_better else "b"
    return Decision(
        verdict, halt.images, float(until.mean()), float(low), float(high), alpha, halt.stopped
    )
