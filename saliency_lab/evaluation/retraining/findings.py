"""What retrained networks say together: accuracies, and classes that leak through masks."""

from __future__ import annotations

from typing import Any

import pandas as pd

from saliency_lab.evaluation.rows.intervals import bootstrap_interval

_TRAINING = ["method", "view", "order", "fill", "fraction", "seed"]


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per training: `accuracy` and mean `probability` of the label over `images`."""
    grouped = rows.groupby(_TRAINING, observed=True, sort=False)
    table = grouped.agg(
        accuracy=("correct", "mean"),
        probability=("probability", "mean"),
        images=("correct", "size"),
    ).reset_index()
    plain = dict.fromkeys(("method", "view", "order", "fill"), str)
    return table.astype({**plain, "accuracy": float, "probability": float})


def unlearned(rows: pd.DataFrame) -> list[str]:
    """A sentence on each training whose network seems to give every image the same answer.

    Such a network has not learned anything, whatever is left in its images: a training that was
    too short or too fast says nothing about the map. Told from `correct` by class alone, so it may
    be another: right on all images of one class and on none of the others.
    """
    found = []
    for key, training in rows.groupby(_TRAINING, observed=True, sort=False):
        method, view, order, fill, fraction, seed = key
        by_class = training.groupby("label", observed=True)["correct"].mean()
        if len(by_class) > 1 and sorted(by_class)[-2:] == [0, 1]:
            filled = "" if order == "mask" else f" with {fill}"
            found.append(
                f"the network trained on images of {method}/{view}, {order} {fraction:g}{filled}, "
                f"seed {seed}, is right on all images of one class and on none of another: if it "
                "gives every image the same answer, it learned nothing, and its accuracy says "
                "nothing about the map (more epochs, or another learning_rate?)"
            )
    return found


def leakage(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """How well classes are told from the masks alone, beside the chance level.

    Chance is the share of the most frequent class among the measured images: what a network gets
    that always answers the same. A class leaks where an interval of the accuracy over images, of
    which each counts with its mean over seeds, lies above. Together the intervals of all fractions
    of a map hold 95 % (Bonferroni): of many fractions one would lie above by chance.
    """
    masks = scores[scores["order"] == "mask"]
    fractions = masks.groupby(["method", "view"], observed=True)["fraction"].nunique()
    found = []
    for (method, view, fraction), group in masks.groupby(
        ["method", "view", "fraction"], observed=True, sort=False
    ):
        level = 1 - 0.05 / int(fractions[method, view])
        interval = bootstrap_interval(group["correct"].to_numpy(float), level=level)
        chance = float(group["label"].value_counts(normalize=True).max())
        value, low, high = (float(part) for part in interval)
        above = low > chance
        told = (
            f"a network that sees only which {100 * float(fraction):g} % of the pixels are "
            f"replaced is right on {value:.3f} [{low:.3f}, {high:.3f}] of the images, "
        )
        told += (
            f"above chance ({chance:.3f}): the class leaks through the mask, and part of the "
            "accuracy after removal or keeping is due to it"
            if above
            else f"not above chance ({chance:.3f})"
        )
        found.append(
            {
                "method": str(method),
                "view": str(view),
                "fraction": float(fraction),
                "accuracy": value,
                "low": low,
                "high": high,
                "chance": chance,
                "leaks": above,
                "sentence": told,
            }
        )
    return found
