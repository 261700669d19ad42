"""`python -m benchmarks.fractions RUN`: what do fewer fractions of a deletion curve save, and cost?

RUN is the directory of a finished evaluation. Its answers to every fraction are there, so that
designs which ask for fewer are replayed on them, curve by curve:

- bisected: is the class kept at the end? If not, the fraction at which it is lost is found by
  halves, as if a class that was lost never came back. Where it does, the area is wrong.
- audited: one of the masked images that bisection did not ask for is drawn, and counts for all of
  those. Each image's area is right in expectation.
- draws=N: the evaluator's own, see `drawn_fractions`. The same.

Per curve, and per difference between two maps under the same fill: how many images lose their
class and get it back, the share of the masked images that is asked for, by how much the mean is
wrong, how far an image is from its whole curves (root mean square), and how wide the mean's
interval is, against all fractions: of the same images, and of as many masked images.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from saliency_lab.evaluation.deletion.draws import (
    drawn_fractions,
    most_draws,
    trapezoid_weights,
)
from saliency_lab.evaluation.rows.format import read_rows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """One image's curve: its answers at all fractions, and which of its images each one shows."""

    kept: Bools
    image: NDArray[np.int64]
    """Number of the distinct masked image, from 1; 0 is the intact image."""
    fractions: tuple[float, ...]


# From a curve and a random start in [0, 1): the area, and the masked images that are asked for.
Design = Callable[[Curve, float], tuple[float, set[int]]]


def bisected(curve: Curve, start: float) -> tuple[float, set[int]]:
    """The class is taken to stay lost once it is lost."""
    answers, weights = _by_image(curve)
    predicted, asked = _halved(answers)
    return float(weights @ predicted), asked


def audited(curve: Curve, start: float) -> tuple[float, set[int]]:
    """Bisection, and one more answer that counts for all that were not asked for."""
    answers, weights = _by_image(curve)
    predicted, asked = _halved(answers)
    area = float(weights @ predicted)
    left = [place for place in range(1, len(answers)) if place not in asked]
    if not left:
        return area, asked
    drawn = left[int(start * len(left))]
    wrong = float(answers[drawn]) - float(predicted[drawn])
    return area + len(left) * weights[drawn] * wrong, {*asked, drawn}


def drawn(curve: Curve, start: float, *, draws: int) -> tuple[float, set[int]]:
    """The evaluator's `draws`."""
    steps = drawn_fractions(curve.fractions, draws, torch.tensor([start]))[0].numpy()
    length = curve.fractions[-1] - curve.fractions[0]
    return length * float(curve.kept[steps].mean()), set(curve.image[steps].tolist()) - {0}


def _by_image(curve: Curve) -> tuple[Bools, Floats]:
    """The answer to each distinct image, the intact one first, and its weight in the area."""
    weights = trapezoid_weights(curve.fractions).numpy()
    shares = np.bincount(curve.image, weights, minlength=curve.image[-1] + 1)
    answers = np.ones(len(shares), bool)
    answers[curve.image] = curve.kept
    return answers, shares


def _halved(answers: Bools) -> tuple[Bools, set[int]]:
    """What bisection takes the answers to be, and which of them it asks for."""
    last = len(answers) - 1
    asked = {last} - {0}
    kept, lost = 0, last + 1 if answers[last] else last
    while not answers[last] and lost - kept > 1:
        middle = (kept + lost) // 2
        asked.add(middle)
        kept, lost = (middle, lost) if answers[middle] else (kept, middle)
    return np.arange(len(answers)) < lost, asked


@dataclass(frozen=True)
class Replayed:
    """What a design says of every image's curve, and what all fractions say."""

    found: Floats
    whole: Floats
    asked: int
    masked: int
    regained: float

    def __sub__(self, other: Replayed) -> Replayed:
        return Replayed(
            self.found - other.found, self.whole - other.whole,
            self.asked + other.asked, self.masked + other.masked,
            max(self.regained, other.regained),
        )  # fmt: skip

    def cells(self) -> Iterator[str]:
        wrong, share = self.found - self.whole, self.asked / max(self.masked, 1)
        wider = np.sqrt(self.found.var() / self.whole.var())
        yield from (f"{self.regained:.0%}", f"{share:.0%}", f"{wrong.mean():+.4f}")
        yield from (f"{np.sqrt(np.mean(wrong**2)):.3f}", f"{wider:.2f}")
        yield f"{wider * np.sqrt(share):.2f}"


def replayed(
    kept: Bools, deleted: Floats, fractions: Floats, design: Design, seed: int
) -> Replayed:
    """A design on the curves (B, F) of one map; an image has the same start for all of its maps."""
    starts = np.random.default_rng(seed).random(len(kept))
    # A fraction at which nothing more is deleted than at the last one is the same image.
    images = (np.diff(deleted, axis=1, prepend=0.0) > 0).cumsum(1)
    steps = tuple(fractions.tolist())
    found, asked = np.zeros(len(kept)), 0
    for row, start in enumerate(starts):
        found[row], used = design(Curve(kept[row], images[row], steps), float(start))
        asked += len(used)
    whole = np.trapezoid(kept.astype(np.float64), fractions)
    regained = float((np.diff(kept.astype(int), axis=1) > 0).any(1).mean())
    return Replayed(found, whole, asked, int(images[:, -1].sum()), regained)


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m benchmarks.fractions")
    words.add_argument("run", type=Path, nargs="+", help="directories of finished evaluations")
    words.add_argument("--draws", type=int, nargs="*", default=(3, 4, 6))
    words.add_argument("--seed", type=int, default=42)
    chosen = words.parse_args()
    for run in chosen.run:
        rows = read_rows(run, "deletion").astype({"view": str, "fill": str, "method": str})
        fractions = rows["fraction"].unique().astype(np.float64)
        designs: dict[str, Design] = {"bisected": bisected, "audited": audited}
        for draws in chosen.draws:
            if draws <= most_draws(tuple(fractions)):
                designs[f"draws={draws}"] = partial(drawn, draws=draws)
        table = Table(
            "map", "fill", "design", "regained", "asked for", "mean off by", "image off by",
            "interval, same images", "same cost", title=f"{run}: {len(rows):,} answers",
        )  # fmt: skip
        for (method, mode, fill), part in rows.groupby(["method", "mode", "fill"], sort=False):
            for name, design in designs.items():
                found = {
                    str(view): replayed(
                        curve["agrees"].to_numpy(bool).reshape(-1, len(fractions)),
                        curve["deleted"].to_numpy(np.float64).reshape(-1, len(fractions)),
                        fractions, design, chosen.seed,
                    )
                    for view, curve in part.groupby("view", sort=False)
                }  # fmt: skip
                pairs = itertools.combinations(found, 2)
                found |= {f"{a} − {b}": found[a] - found[b] for a, b in pairs}
                for view, said in found.items():
                    table.add_row(f"{method}/{view}", f"{mode}, {fill}", name, *said.cells())
        Console(width=170).print(table)


if __name__ == "__main__":
    main()
