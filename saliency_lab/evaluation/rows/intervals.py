"""How sure an average is: intervals over images, over training seeds, and of a share."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
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


class Interval(NamedTuple):
    """A value with its interval; floats, or arrays of one shape for several columns at once."""

    value: float | Floats
    low: float | Floats
    high: float | Floats


def bootstrap_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 42
) -> Interval:
    """The mean over images with a percentile bootstrap interval, images drawn with replacement.

    The percentiles are further out the fewer images there are, by as much as Student's interval is
    wider than the normal one: plain percentiles hold a mean in 84 of 100 samples of 5 images and in
    89 of 10 where 95 are asked for (areas under deletion curves). Of 1,000 images it makes no
    difference.

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

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13; Hesterberg,
        "What teachers should know about the bootstrap", 2015, the expanded percentile interval.
    """
    rows = finite_rows(values)
    flat = rows.reshape(len(rows), -1)
    if 0 < len(rows) * resamples <= _KEPT:
        means = _kept_counts(len(rows), resamples, seed) @ flat / len(rows)
    else:
        means = _resampled_means(flat, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, _expanded_tails(len(rows), level), axis=0)
    ends = (flat.mean(0), low, high)
    if rows.ndim == 1:
        return Interval(*(float(end[0]) for end in ends))
    return Interval(*(end.reshape(rows.shape[1:]) for end in ends))


def student_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """The mean over images with Student's interval, which holds its level for few images, too.

    Args:
        values: (N, ...), one row per image. Of one image the interval has no width.
        level: see `bootstrap_interval`.

    Raises:
        UserError: as `bootstrap_interval`.

    Source: Student, "The probable error of a mean", 1908.
    """
    rows = finite_rows(values)
    _check_level(level)
    return _around(rows.mean(0), _half_width(rows, level))


def seeds_interval(
    seeds: Sequence[ArrayLike],
    *,
    images: Sequence[Sequence[Hashable]] | None,
    lowest: float | None = None,
    highest: float | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 42,
) -> Interval:
    """The mean over several training seeds, with an interval for both seeds and images.

    Every seed counts the same, however many images it has. Student's half-width over the means of
    the seeds and that over the images are added as squares. Few seeds say little about how seeds
    vary, and a bootstrap over them does not know that: of two seeds its intervals of 95 % hold the
    mean in 6 of 10 cases. What varies with seed and image together is in both half-widths, so the
    interval is a little too wide rather than too narrow. With one seed this is
    `bootstrap_interval`.

    Args:
        seeds: per seed the values (N_i, ...) of its images; trailing shapes agree.
        images: per seed the names (N_i) of its images, none twice. What makes an image hard for
            all seeds that have it is then part of the variance. None: no two rows are of one image.
        lowest, highest: what no value can be below or above: the interval ends there, too.
        level: see `bootstrap_interval`.
        resamples, seed: of the resamples of one seed.

    Returns:
        As `bootstrap_interval`.

    Raises:
        UserError: no seed, shapes that do not go together, and what `bootstrap_interval` raises.

    Source: Howe, "Approximate confidence limits on the mean of X + Y where X and Y are two tabled
        independent random variables", 1974; for images that some seeds share, the variance of a
        mean over clusters in Liang and Zeger, "Longitudinal data analysis using generalized linear
        models", 1986, equation 9.
    """
    groups = [finite_rows(values) for values in seeds]
    names = [[] for _ in groups] if images is None else images
    named = [len(set(its)) for its in names] == [len(group) for group in groups]
    if len({group.shape[1:] for group in groups}) != 1 or (images is not None and not named):
        raise UserError(
            "Expected `seeds` to be one array of values per seed with equal columns, and `images` "
            f"a name for each of its rows, but got shapes {[g.shape for g in groups]} and "
            f"{[len(its) for its in names]} names."
        )
    if len(groups) == 1:
        return bootstrap_interval(groups[0], level=level, resamples=resamples, seed=seed)
    _check_level(level)
    means = np.stack([group.mean(0) for group in groups])
    squares = _half_width(means, level) ** 2
    if images is None:
        squares += sum(_half_width(group, level) ** 2 for group in groups) / len(groups) ** 2
    else:
        squares += _half_width_of_shared(groups, names, level) ** 2
    return _around(means.mean(0), np.sqrt(squares), lowest, highest)


def _half_width_of_shared(
    groups: Sequence[Floats], names: Sequence[Sequence[Hashable]], level: float
) -> Floats:
    """Over images: the squares of what each, in all the seeds that have it, adds to the mean."""
    place = {name: at for at, name in enumerate(dict.fromkeys(chain.from_iterable(names)))}
    count = len(place)
    adds = np.zeros((count, *groups[0].shape[1:]))
    for group, its in zip(groups, names, strict=True):
        rows = [place[name] for name in its]
        adds[rows] += (group - group.mean(0)) / (len(group) * len(groups))
    if count == 1:
        return np.zeros(adds.shape[1:])
    factor = stats.t.ppf((1 + level) / 2, count - 1) * np.sqrt(count / (count - 1))
    return np.asarray(factor * np.sqrt((adds**2).sum(0)))


def _around(
    value: Floats, half: Floats, lowest: float | None = None, highest: float | None = None
) -> Interval:
    least = -np.inf if lowest is None else lowest
    most = np.inf if highest is None else highest
    # Rounding may put a mean of values at the limit just beyond it.
    low, high = np.maximum(value - half, least), np.minimum(value + half, most)
    ends = (value, np.minimum(low, value), np.maximum(high, value))
    return Interval(*ends) if np.ndim(value) else Interval(*map(float, ends))


def _half_width(rows: Floats, level: float) -> Floats:
    """Of Student's interval of the mean of N rows; 0 for one row, of which nothing is known."""
    if len(rows) == 1:
        return np.zeros(rows.shape[1:])
    factor = stats.t.ppf((1 + level) / 2, len(rows) - 1) / np.sqrt(len(rows))
    return np.asarray(factor * rows.std(0, ddof=1))


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


def accuracy_over_seeds(
    accuracies: Sequence[float], total: int, *, level: float = 0.95
) -> Interval:
    """The mean accuracy over training seeds, with an interval for both seeds and images.

    As `seeds_interval`, but from the shares alone: images are taken to vary as much as they can,
    as if every one were right under all seeds or under none, and their part is Wilson's interval,
    which has a width at 0 and at 1. With one seed this is `accuracy_interval`.

    Args:
        accuracies: one per seed, each in 0 to 1, of the same `total` images.

    Raises:
        UserError: no seed or no image, or a share that is not in 0 to 1.
    """
    shares = finite_rows(accuracies)
    if total < 1 or shares.min() < 0 or shares.max() > 1:
        raise UserError(
            "Expected `accuracies` to be shares of one or more images, each in 0 to 1, "
            f"but got {shares.tolist()} of {total}."
        )
    if len(shares) == 1:
        return accuracy_interval(round(float(shares[0]) * total), total, level=level)
    _check_level(level)
    value, of_seeds = float(shares.mean()), _half_width(shares, level)
    low, high = (np.hypot(of_seeds, value - end) for end in _wilson(value, total, level))
    return Interval(value, max(value - float(low), 0.0), min(value + float(high), 1.0))


def _wilson(share: float, total: int, level: float) -> tuple[float, float]:
    """The ends of Wilson's interval of a mean of shares, which need not be a whole count."""
    z = stats.norm.ppf((1 + level) / 2)
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + (z / total) ** 2 / 4)
    return float(middle - half), float(middle + half)


def finite_rows(values: ArrayLike) -> Floats:
    """The values as float64, one row per image.

    Raises:
        UserError: no row, or values that are not finite.
    """
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


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"Expected `level` to be between 0 and 1, but got {level}.")


def _expanded_tails(number: int, level: float) -> Floats:
    """The shares of resampled means below an interval's two ends."""
    _check_level(level)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if number == 1:
        return tails
    wider = np.sqrt(number / (number - 1)) * stats.t.ppf(tails, number - 1)
    return np.asarray(stats.norm.cdf(wider))
