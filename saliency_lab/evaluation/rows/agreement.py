"""Do measures agree: over images, with each other, and with how many images?"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from saliency_lab.errors import UserError

Level = Literal["ordinal", "interval"]

_MANY = 10_000
"""From so many images on, not knowing the deviation asks for a fraction of a per mille more."""


class Correlation(NamedTuple):
    """A rank correlation with its interval."""

    value: float
    low: float
    high: float


def krippendorff_alpha(ratings: pd.DataFrame, level: Level = "ordinal") -> float:
    """How far raters agree on units: 1 perfectly, 0 as by chance, below 0 they contradict.

    For a measure: every image is a rater that ranks the maps. Ratings may be missing (NaN); a unit
    that fewer than two rated is left out.

    Args:
        ratings: a row per rater, a column per unit.
        level: `ordinal` counts how many ratings lie between two, `interval` squares their
            difference.

    Raises:
        UserError: fewer than two raters of any unit, ratings that are all the same, or an unknown
            level.

    Source: Krippendorff, "Computing Krippendorff's alpha-reliability", 2011; for measures of
    saliency maps: Tomsett et al., "Sanity checks for saliency metrics", 2020, section 4.
    """
    if level not in ("ordinal", "interval"):
        raise UserError(f"Expected `level` to be ordinal or interval, but got '{level}'.")
    table = ratings.to_numpy(np.float64)
    table = table[:, np.sum(~np.isnan(table), axis=0) >= 2]
    known = ~np.isnan(table)
    values, codes = np.unique(table[known], return_inverse=True)
    if len(values) < 2:
        raise UserError(
            "Expected `ratings` to hold at least two different values for units that two raters "
            f"rated, but got {len(values)}."
        )
    totals = np.bincount(codes, minlength=len(values)).astype(np.float64)
    places = values
    if level == "ordinal":
        # The squared difference of these is Krippendorff's ordinal metric.
        places = np.cumsum(totals) - totals / 2
    placed = np.full(table.shape, np.nan)
    placed[known] = places[codes]
    observed = sum(
        2 * _pair_squares(column[~np.isnan(column)]) / (np.sum(~np.isnan(column)) - 1)
        for column in placed.T
    )
    every = placed[known]
    expected = 2 * _pair_squares(every) / (len(every) - 1)
    return float(1 - observed / expected)


def rank_agreement(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 42,
) -> Correlation:
    """Spearman's correlation of two measures over maps, with an interval over maps.

    The interval is the percentiles' of correlations of maps drawn with replacement; draws in which
    one side is constant say nothing and are left out. Maps of one source resemble each other, so
    the interval is about these maps rather than about any.

    Args:
        first, second: a number per map, (M,), M ≥ 3.

    Returns:
        NaN throughout where a measure gives every map the same value.

    Raises:
        UserError: fewer than three maps, or lengths that differ.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 3:
        raise UserError(
            "Expected two measures of the same three or more maps, "
            f"but got shapes {a.shape} and {b.shape}."
        )
    drawn = np.random.default_rng(seed).integers(0, len(a), (resamples, len(a)))
    found = _rank_correlations(a[drawn], b[drawn])
    found = found[~np.isnan(found)]
    value = float(_rank_correlations(a[None], b[None])[0])
    if not len(found) or np.isnan(value):
        return Correlation(np.nan, np.nan, np.nan)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Correlation(value, float(low), float(high))


def _rank_correlations(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's correlation of each row; NaN where a side is constant."""
    ranks = [stats.rankdata(values, axis=1) for values in (first, second)]
    a, b = (values - values.mean(1, keepdims=True) for values in ranks)
    scale = np.sqrt(np.sum(a**2, 1) * np.sum(b**2, 1))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sum(a * b, 1) / scale)


def interval_widths(
    values: NDArray[np.float64] | pd.Series,
    counts: Sequence[int],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """How wide the interval of a mean is with n images, by resampling the rows of one run.

    Args:
        values: a number per image (N,); for a comparison the paired differences.
        counts: numbers of images n; they may exceed N.
        level: of the interval.
        resamples: means of n images that are drawn with replacement.
        seed: of the resamples.

    Returns:
        Columns images, low, high, width: the percentiles of the means and their distance; and
        decided, the share of the resamples of n images whose own normal interval excludes 0.

    Raises:
        UserError: no values, values that are not finite, or counts below 2.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise UserError(
            "Expected `values` to hold one finite number per image, but got an array of shape "
            f"{numbers.shape}."
        )
    if any(count < 2 for count in counts):
        raise UserError(f"Expected `counts` to be at least 2, but got {list(counts)}.")
    quantile = stats.norm.ppf((1 + level) / 2)
    table = []
    for count in counts:
        means, deviations = _resampled(numbers, count, resamples, seed)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        excluded = np.abs(means) > quantile * deviations / np.sqrt(count)
        table.append(
            {
                "images": count,
                "low": float(low),
                "high": float(high),
                "width": float(high - low),
                "decided": float(excluded.mean()),
            }
        )
    return pd.DataFrame(table)


def images_needed(
    values: NDArray[np.float64] | pd.Series, *, level: float = 0.95, power: float = 0.8
) -> int:
    """How many images decide that the mean is not 0, with this power, if it is what was found.

    The least n whose Student interval excludes 0 that often, by the noncentral t distribution; and
    no fewer than let Wilcoxon's exact test, whose p is 2 / 2ⁿ at the least, fall below 1 − level.
    Neither knows of other comparisons that p is corrected for.

    Args:
        values: paired differences, one per image.
        level: of the two-sided interval.
        power: how often it is to exclude 0.

    Raises:
        UserError: fewer than two values, or a mean of exactly 0.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2 or numbers.mean() == 0:
        raise UserError(
            f"Expected `values` to be at least two with a mean other than 0, but got {len(numbers)}"
            f" with the mean {numbers.mean() if len(numbers) else 'of none'}."
        )
    least = int(np.floor(1 - np.log2(1 - level))) + 1
    deviation = numbers.std(ddof=1)
    if deviation == 0:
        return least
    effect = abs(numbers.mean()) / deviation
    sides = stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)
    # As if the deviation were known, which asks for a few images less than it takes.
    count = max(least, int(np.ceil((sides / effect) ** 2)))
    while count < _MANY and _power(count, effect, level) < power:
        count += 1
    return count


def _power(count: int, effect: float, level: float) -> float:
    """How often Student's interval of the mean of so many values is above 0.

    Args:
        count: of values.
        effect: their mean over their deviation, positive.
        level: of the two-sided interval.
    """
    quantile = stats.t.ppf((1 + level) / 2, count - 1)
    return float(stats.nct.sf(quantile, count - 1, effect * np.sqrt(count)))


def _pair_squares(values: NDArray[np.float64]) -> float:
    """The sum of squared differences over all pairs, each counted once."""
    centred = values - values.mean()
    return float(len(values) * np.sum(centred**2))


def _resampled(
    values: NDArray[np.float64], count: int, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and standard deviations of so many draws of `count` values."""
    times = _times_drawn(len(values), count, resamples, seed)
    centre = values.mean()
    sums, squares = times @ (values - centre), times @ (values - centre) ** 2
    variances = (squares - sums**2 / count) / (count - 1)
    return centre + sums / count, np.sqrt(np.maximum(variances, 0))


@functools.lru_cache(maxsize=8)
def _times_drawn(size: int, count: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each of `size` values is among `count` draws with replacement, (resamples, size).

    The same for all values of one length, so that a report with hundreds of maps draws once.
    """
    rng = np.random.default_rng([seed, count])
    return rng.multinomial(count, np.full(size, 1 / size), size=resamples).astype(np.float64)
