"""Whether two averages over the same images differ: paired differences and their p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.intervals import Floats, bootstrap_interval, finite_rows

SIGNIFICANT = 0.05
"""What a p, corrected for the number of comparisons, has to be below."""


@dataclass(frozen=True)
class PairedDifference:
    """How two methods differ on the same images: the mean of a − b, its interval, its p-value."""

    difference: float
    low: float
    high: float
    p: float


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 42
) -> PairedDifference:
    """The mean difference a − b over the same images, with interval and Wilcoxon's p-value.

    The p-value is the two-sided signed-rank test's, zero differences dropped, as SciPy chooses its
    method (exact for few images, else the normal approximation); it is 1 where no image differs.

    Args:
        a, b: one number per image, (N,), in the same order of images.
        level, resamples, seed: see `bootstrap_interval`.

    Raises:
        UserError: lengths that differ, and what `bootstrap_interval` raises.

    Source: Wilcoxon, "Individual comparisons by ranking methods", 1945.
    """
    first, second = finite_rows(a), finite_rows(b)
    if first.shape != second.shape or first.ndim != 1:
        raise UserError(
            "Expected paired values to be two lists of one number per image, "
            f"but got shapes {first.shape} and {second.shape}."
        )
    differences = first - second
    found = bootstrap_interval(differences, level=level, resamples=resamples, seed=seed)
    p = wilcoxon_p(differences)
    return PairedDifference(float(found.value), float(found.low), float(found.high), p)


def wilcoxon_p(differences: Floats) -> float:
    """The two-sided signed-rank test's p-value, as `paired_difference` gives it."""
    if not np.any(differences != 0):
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="wilcox").pvalue)


def mean_ps(differences: Floats) -> list[float]:
    """Student's two-sided p-value that the mean is 0, of every column of (N, M).

    Wilcoxon's test asks whether the values lie evenly about 0: of skewed ones it says no where the
    mean is 0. This asks about the mean itself. Of one value, and of equal ones that are 0, it is 1.
    Of N others that are equal it is 2 / 2^N, the sign test's: their spread says nothing, and a t of
    infinity would call two images enough.
    """
    number, means = len(differences), differences.mean(0)
    if number < 2:
        return [1.0] * len(means)
    errors = differences.std(0, ddof=1) / np.sqrt(number)
    # A spread as small as this is what rounding leaves of none.
    equal = np.ptp(differences, 0) <= 1e-12 * np.abs(differences).max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(means == 0, 0.0, np.abs(means / errors))
    signs = np.where(means == 0, 1.0, 2.0 ** (1 - number))
    found = np.where(equal, signs, 2 * stats.t.sf(t, number - 1))
    return [float(p) for p in found]


def is_significant(low: float, high: float, p: float) -> bool:
    """Whether a difference of means is one: its interval excludes 0 and its p is small enough.

    Either alone can mislead: Wilcoxon's test sees a shift of skewed differences whose mean is not
    clear of 0, and an interval knows nothing of how many others were looked at.

    Args:
        low, high: of the interval.
        p: corrected for the number of comparisons, if there are several.
    """
    return bool((low > 0 or high < 0) and p < SIGNIFICANT)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being a family, by Holm's step-down method, in the given order.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(value) for value in corrected]
