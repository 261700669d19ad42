"""When enough images were drawn to say which of two maps is better, and which it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.rows.sequences import (
    Floats,
    Kind,
    confidence_sequence,
    e_benjamini_hochberg,
    evidence,
)

Correction = Literal["bonferroni", "e-bh"]
CORRECTIONS = ("bonferroni", "e-bh")
Verdict = Literal["a", "b", "undecided"]


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
        if not 0 < self.alpha < 1:
            raise UserError(f"Expected `alpha` to be between 0 and 1, but got {self.alpha}")
        for name in ("tolerance", "least"):
            if not getattr(self, name) >= 0:
                raise UserError(f"Expected `{name}` to be 0 or more, but got {getattr(self, name)}")


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
    count = len(differences)
    alone = count == 1 or rule.correction == "bonferroni"
    alpha = rule.alpha / count if alone else rule.alpha
    scaled = [np.asarray(values, dtype=np.float64) / span for values in differences]
    bounds = [
        span * confidence_sequence(values, population=population, alpha=alpha, kind=rule.kind)
        for values in scaled
    ]
    close = [edges[:, 1] - edges[:, 0] < rule.tolerance for edges in bounds]
    if alone:
        decided = [(edges[:, 0] > 0) | (edges[:, 1] < 0) for edges in bounds]
        stops = [_stop(d | c, population, rule.least) for d, c in zip(decided, close, strict=True)]
    else:
        values = np.stack([evidence(v, population=population, alpha=alpha) for v in scaled], 1)
        found = np.stack([e_benjamini_hochberg(row, rule.alpha) for row in values])
        decided = list(found.T)
        together = np.all([d | c for d, c in zip(decided, close, strict=True)], axis=0)
        stops = [_stop(together, population, rule.least)] * count
    return [
        _decision(np.asarray(values, dtype=np.float64), *pair, alpha, lower_is_better)
        for values, *pair in zip(differences, bounds, decided, stops, strict=True)
    ]


def permutation(size: int, seed: int) -> list[int]:
    """The order in which the images of a split are drawn, whatever else the seed decides."""
    return [int(place) for place in np.random.default_rng([seed, 0xC0]).permutation(size)]


def _stop(met: np.ndarray, population: int, least: int) -> tuple[int, bool]:
    """Images until the rule is met, or so far; whether it is met."""
    drawn = len(met)
    reached = np.flatnonzero(met[max(least - 1, 0) :])
    if len(reached):
        return int(reached[0]) + max(least, 1), True
    return drawn, drawn == population


def _decision(
    differences: Floats,
    bounds: Floats,
    decided: np.ndarray,
    stop: tuple[int, bool],
    alpha: float,
    lower_is_better: bool,
) -> Decision:
    images, stopped = stop
    low, high = bounds[images - 1]
    mean = float(differences[:images].mean())
    verdict: Verdict = "undecided"
    if stopped and decided[images - 1]:
        # Bounds name the sign where they exclude 0; a discovery by e-values alone has the mean's.
        above = low > 0 or (high >= 0 and mean > 0)
        verdict = "a" if above != lower_is_better else "b"
    return Decision(verdict, images, mean, float(low), float(high), alpha, stopped)
