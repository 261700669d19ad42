"""What the rows of retrained networks add up to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saliency_lab.errors import UserError
from saliency_lab.evaluation.retraining.evaluator import Retraining
from saliency_lab.evaluation.retraining.findings import leakage, unlearned
from saliency_lab.evaluation.rows.aggregation import comparisons

IMAGES = 40


def rows_of(right: dict[tuple[str, int], int]) -> pd.DataFrame:
    """Rows of 40 images of four classes; so many of them are right, by order and seed."""
    return pd.DataFrame(
        {
            "sample_id": f"image-{number}", "index": number, "label": number % 4, "method": "m",
            "view": "original", "order": order, "fill": "none" if order == "mask" else "mean",
            "fraction": 0.5, "seed": seed, "correct": float(number < count),
            "probability": 0.25 * (1 + seed),
        }
        for (order, seed), count in right.items()
        for number in range(IMAGES)
    )  # fmt: skip


def test_scores_are_means_over_seeds():
    rows = rows_of({("remove", 0): 30, ("remove", 1): 10, ("keep", 0): 5, ("keep", 1): 5})
    scores = Retraining().image_scores(rows)
    assert len(scores) == 2 * IMAGES
    removed = scores[scores["order"] == "remove"].sort_values("index")["correct"]
    assert removed.tolist() == [1.0] * 10 + [0.5] * 20 + [0.0] * 10
    assert set(scores["probability"]) == {0.375}


def test_differences_between_maps_have_no_p_for_trainings_differ_too():
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(
        {
            "sample_id": [f"{at}" for at in range(50)] * 2,
            "method": "gradient",
            "view": ["original"] * 50 + ["active"] * 50,
            "order": "remove",
            "fill": "mean",
            "fraction": 0.5,
            "correct": rng.random(100),
        }
    )
    (found,) = comparisons(Retraining(), scores, 100)
    assert (found["p"], found["p_holm"]) == (None, None)
    assert found["low"] < found["difference"] < found["high"]


def test_accuracies_are_said_by_seed():
    rows = rows_of({("remove", 0): 30, ("remove", 1): 10})
    facts = Retraining().facts(rows, Retraining().image_scores(rows))
    assert [(row["seed"], row["accuracy"], row["images"]) for row in facts["accuracies"]] == [
        (0, 0.75, IMAGES),
        (1, 0.25, IMAGES),
    ]
    assert facts["leakage"] == []


@pytest.mark.parametrize(("count", "leaks"), [(10, False), (12, False), (30, True)])
def test_a_class_leaks_where_masks_alone_tell_it_better_than_chance(count, leaks):
    scores = Retraining().image_scores(rows_of({("mask", 0): count, ("remove", 0): 40}))
    (found,) = leakage(scores)
    assert found["chance"] == 0.25
    assert found["accuracy"] == count / IMAGES
    assert found["low"] < found["accuracy"] < found["high"]
    assert found["leaks"] is leaks
    assert ("leaks through the mask" in found["sentence"]) is leaks


def test_of_many_fractions_none_leaks_by_chance():
    rows = rows_of({("mask", 0): 14})
    (alone,) = leakage(Retraining().image_scores(rows))
    many = pd.concat([rows.assign(fraction=fraction) for fraction in np.linspace(0.05, 0.95, 19)])
    found = leakage(Retraining().image_scores(many))
    assert len(found) == 19
    assert all(one["low"] < alone["low"] for one in found)
    # Another map's fractions are a family of their own.
    both = Retraining().image_scores(pd.concat([many, rows.assign(view="active")]))
    (other,) = (one for one in leakage(both) if one["view"] == "active")
    assert other["low"] == alone["low"]


def test_which_way_is_better_depends_on_what_was_done():
    better = {
        order: Retraining().better("correct", {"order": order, "fill": "mean", "fraction": "0.5"})
        for order in ("remove", "keep", "mask")
    }
    assert better == {"remove": "lower", "keep": "higher", "mask": None}


def test_empty_and_repeated_settings_are_refused():
    for name, values in (("fills", []), ("seeds", [1, 1]), ("fractions", [0.5, 0.5])):
        with pytest.raises(UserError, match=rf"evaluator\.retraining\.{name}"):
            Retraining(**{name: values})


def test_a_network_that_gives_one_answer_is_named():
    rows = rows_of({("remove", 0): 30, ("mask", 1): 10})
    assert unlearned(rows) == []
    # Right on all images of class 2 and on no others: it says 2, whatever it sees.
    stuck = rows["order"].eq("mask")
    rows.loc[stuck, "correct"] = rows.loc[stuck, "label"].eq(2).astype(float)
    (sentence,) = unlearned(rows)
    assert (
        "m/original, mask 0.5, seed 1, is right on all images of one class and on none" in sentence
    )
    facts = Retraining().facts(rows, Retraining().image_scores(rows))
    assert sentence in facts["warnings"]


def test_a_network_that_is_right_on_two_classes_has_learned_something():
    rows = rows_of({("remove", 0): 30})
    rows["correct"] = (rows["label"] < 2).astype(float)
    assert unlearned(rows) == []
