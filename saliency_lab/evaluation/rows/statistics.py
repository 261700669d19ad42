"""How sure an average over images is: bootstrap intervals, paired comparisons, several seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from saliency_lab.errors import UserError

Floats = NDArray[np.float64]

# Numbers held at once while resampling (256 MiB of float64 or int64), whatever N and resamples.
_HELD = 2**25
# The same images are resampled in the same way for every score and map: such draws are kept up to
# this many numbers (32 MiB).
_KEPT = 2**22
# From this many images on, scipy takes the normal approximation of every column; below, what it
# takes depends on a column's ties, and for several columns on those of all.
_EXACT = 50


class Interval(NamedTuple):
    """A value with its interval; floats, or arrays of one shape for several columns at once."""

    value: float | Floats
    low: float | Floats
    high: float | Floats


@dataclass(frozen=True)
class PairedDifference:
    """How two methods differ on the same images: the mean of a − b, its interval, its p-value."""

    difference: float
    low: float
    high: float
    p: float


def bootstrap_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 42
) -> Interval:
    """The mean over images with a percentile bootstrap interval, images drawn with replacement.

    Args:
        values: (N, ...), one row per image; all columns share the same resamples, so that a
            whole curve, or several, are one call.
        level: coverage of the interval.
        resamples: number of resamples.
        seed: of the resamples.

    Returns:
        Floats for values (N,), arrays of the trailing shape otherwise.

    Raises:
        UserError: no image, values that are not finite, or a level or count out of range.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    rows = _rows(values)
    flat = rows.reshape(len(rows), -1)
    if 0 < len(rows) * resamples <= _KEPT:
        means = _kept_counts(len(rows), resamples, seed) @ flat / len(rows)
    else:
        means = _resampled_means(flat, resamples, np.random.default_rng(seed))
    return _percentiles(flat.mean(0), means, rows.shape[1:], level)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 42
) -> PairedDifference:
    """The mean difference a − b over the same images, with interval and Wilcoxon's p-value.

    The p-value is the two-sided signed-rank test's (ties by the normal approximation, zero
    differences dropped); it is 1 where no image differs.

    Args:
        a, b: one number per image, (N,), in the same order of images.
        level, resamples, seed: see `bootstrap_interval`.

    Raises:
        UserError: lengths that differ, and what `bootstrap_interval` raises.

    Source: Wilcoxon, "Individual comparisons by ranking methods", 1945.
    """
    first, second = _rows(a), _rows(b)
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


def wilcoxon_ps(differences: Floats) -> list[float]:
    """`wilcoxon_p` of every column of (N, M), many columns in one go."""
    if len(differences) <= _EXACT:
        return [wilcoxon_p(column) for column in differences.T]
    moved = np.any(differences != 0, axis=0)
    found = np.ones(differences.shape[1])
    if moved.any():
        found[moved] = stats.wilcoxon(differences[:, moved], zero_method="wilcox", axis=0).pvalue
    return [float(p) for p in found]


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


def hierarchical_interval(
    seeds: Sequence[ArrayLike], *, level: float = 0.95, resamples: int = 1000, seed: int = 42
) -> Interval:
    """The mean over several training seeds, with an interval for both seeds and images.

    Each resample draws seeds with replacement, then within each drawn seed its images with
    replacement; every seed counts the same, however many images it has. With one seed this is
    `bootstrap_interval`.

    Args:
        seeds: per seed the values (N_i, ...) of its images; trailing shapes agree.
        level, resamples, seed: see `bootstrap_interval`.

    Raises:
        UserError: no seed, trailing shapes that differ, and what `bootstrap_interval` raises.

    Source: Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8.
    """
    groups = [_rows(values) for values in seeds]
    if not groups or any(group.shape[1:] != groups[0].shape[1:] for group in groups):
        raise UserError(
            "Expected `seeds` to be one array of values per seed with equal columns, "
            f"but got shapes {[group.shape for group in groups]}."
        )
    rng = np.random.default_rng(seed)
    flats = [group.reshape(len(group), -1) for group in groups]
    if len(flats) == 1:
        means = _resampled_means(flats[0], resamples, rng)
    else:
        drawn = rng.multinomial(len(flats), np.full(len(flats), 1 / len(flats)), size=resamples)
        means = np.zeros((resamples, flats[0].shape[1]))
        for column, flat in enumerate(flats):
            # A seed that was drawn n times is resampled n times over, each time anew.
            for times in range(1, int(drawn[:, column].max(initial=0)) + 1):
                chosen = np.flatnonzero(drawn[:, column] >= times)
                means[chosen] += _resampled_means(flat, len(chosen), rng)
        means /= len(flats)
    value = np.mean([flat.mean(0) for flat in flats], axis=0)
    return _percentiles(value, means, groups[0].shape[1:], level)


def accuracy_interval(correct: int, total: int, *, level: float = 0.95) -> Interval:
    """The share correct / total with Wilson's score interval, which needs the counts alone.

    Raises:
        UserError: no image, or more correct than there are.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not 0 <= correct <= total or total == 0:
        raise UserError(f"Expected `correct` to be 0 to total >= 1, but got {correct} of {total}.")
    found = stats.binomtest(correct, total).proportion_ci(level, method="wilson")
    return Interval(correct / total, float(found.low), float(found.high))


def _rows(values: ArrayLike) -> Floats:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim == 0 or len(rows) == 0:
        raise UserError(f"Expected `values` to hold one row per image, but got {rows.shape}.")
    if not np.isfinite(rows).all():
        raise UserError("Expected `values` to be finite, but got NaN or infinity among them.")
    return rows


def _resampled_means(rows: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means (resamples, M) of N rows (N, M) drawn with replacement."""
    number = len(rows)
    if resamples < 1:
        raise UserError(f"Expected `resamples` to be >= 1, but got {resamples}.")
    # How often each row was drawn, times the rows: one matrix product for all columns.
    parts = [counts @ rows for counts in _draw_counts(number, resamples, rng)]
    return np.concatenate(parts) / number


def _draw_counts(number: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    chunk = max(1, _HELD // (2 * number))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, number, size=(size, number))
        drawn += np.arange(size)[:, None] * number
        counts = np.bincount(drawn.ravel(), minlength=size * number)
        yield counts.reshape(size, number).astype(np.float64)


@lru_cache(maxsize=2)
def _kept_counts(number: int, resamples: int, seed: int) -> Floats:
    """How often each row is drawn in each resample, (resamples, number); not to be written to."""
    counts = np.concatenate(list(_draw_counts(number, resamples, np.random.default_rng(seed))))
    counts.flags.writeable = False
    return counts


def _percentiles(value: Floats, means: Floats, shape: tuple[int, ...], level: float) -> Interval:
    if not 0 < level < 1:
        raise UserError(f"Expected `level` to be between 0 and 1, but got {level}.")
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(means, tails, axis=0)
    shaped: Callable[[Floats], float | Floats] = (
        (lambda found: found.reshape(shape)) if shape else (lambda found: float(found[0]))
    )
    return Interval(shaped(value), shaped(low), shaped(high))
