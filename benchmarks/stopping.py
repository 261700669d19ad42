"""`python -m benchmarks.stopping RUN`: is `compare`'s error what it says, and what does it cost?

RUN is the directory of a finished evaluation of several views. Its scores of every image are the
population; `compare` is replayed on them in many orders.

- Error: to each difference d its opposite −d is added, so that the mean difference is exactly 0.
  Of the replays at most `alpha` may end in a verdict.
- Verdicts: how often a replay of the real differences agrees with the sign over all images.
- Cost: images until decided, beside the images that a paired test of one fixed size needs to
  decide as often (normal approximation), if the difference had been known beforehand.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saliency_lab.evaluation.rows.agreement import images_needed
from saliency_lab.evaluation.rows.decisions import Rule, stops
from saliency_lab.evaluation.rows.format import read_scores
from saliency_lab.runs.directory import read_summary


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m benchmarks.stopping")
    words.add_argument("run", type=Path, help="directory of a finished evaluation")
    words.add_argument("--evaluator", default="deletion", help="whose main score decides")
    words.add_argument("--condition", nargs="*", default=(), help="KEY=VALUE of its conditions")
    words.add_argument("--replays", type=int, default=2000)
    words.add_argument("--alpha", type=float, default=0.05)
    words.add_argument("--images", type=int, default=1000, help="of the populations without a mean")
    chosen = words.parse_args()
    found = read_summary(chosen.run)["evaluators"][chosen.evaluator]["scores"][0]
    span = float(found["high"]) - float(found["low"])
    wide = _scores(chosen.run, chosen.evaluator, chosen.condition, found["name"])
    rng = np.random.default_rng(42)
    rule = Rule(alpha=chosen.alpha)
    print(f"{len(wide):,} images, {chosen.replays:,} replays, alpha {chosen.alpha:g}")
    for a, b in itertools.combinations(wide.columns, 2):
        differences = (wide[a] - wide[b]).to_numpy(np.float64)
        if not differences.any():
            print(f"{a} against {b}: the same scores")
            continue
        some = rng.choice(differences, min(chosen.images, len(differences)), replace=False)
        false, _ = _replayed(np.concatenate([some, -some]), rule, span, chosen.replays, rng)
        signs, images = _replayed(differences, rule, span, chosen.replays // 10, rng)
        right = np.mean(signs == np.sign(differences.mean()))
        wrong = np.mean(signs == -np.sign(differences.mean()))
        decided = np.mean(signs != 0)
        fixed = {power: images_needed(differences, power=power) for power in (0.8, 0.95)}
        print(
            f"{a} against {b}: mean {differences.mean():+.4f}; "
            f"without a difference {np.mean(false != 0):.2%} false verdicts; "
            f"decided {decided:.1%}, right {right:.1%}, wrong {wrong:.1%}; "
            f"images {np.median(images):,.0f} (80 %: {np.quantile(images, 0.8):,.0f}, "
            f"95 %: {np.quantile(images, 0.95):,.0f}); "
            f"fixed test {fixed[0.8]:,} (power 80 %), {fixed[0.95]:,} (95 %)"
        )


def _scores(run: Path, evaluator: str, condition: tuple[str, ...], score: str) -> pd.DataFrame:
    scores = read_scores(run, evaluator)
    for word in condition:
        key, _, value = word.partition("=")
        scores = scores[scores[key].astype(str) == value]
    scores = scores.astype({"view": str})
    return scores.pivot(index="sample_id", columns="view", values=score).dropna(axis=1)


def _replayed(
    population: NDArray[np.float64],
    rule: Rule,
    span: float,
    replays: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sign of each replay's verdict (0: none) and how many images it drew."""
    signs, images = np.zeros(replays, np.int64), np.zeros(replays, np.int64)
    for at in range(replays):
        drawn = rng.permutation(population)
        (halt,) = stops([drawn], len(population), rule, span=span)
        signs[at], images[at] = halt.sign, halt.images
    return signs, images


if __name__ == "__main__":
    main()
