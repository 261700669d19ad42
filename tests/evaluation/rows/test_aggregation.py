"""Areas, curves and comparisons against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.base import Evaluator, Score
from saliency_lab.evaluation.deletion.evaluator import Deletion, mean_curves
from saliency_lab.evaluation.rows.aggregation import (
    comparisons,
    completeness_table,
    estimate_table,
    mean_cost,
    score_means,
)

DELETION = Deletion()

FRACTIONS = (0.0, 0.1, 0.5)


def rows(agreement: dict[str, list[list[bool]]], fill: str = "black") -> pd.DataFrame:
    """Rows of curves given as view -> image -> whether each fraction agrees."""
    records = [
        {
            "sample_id": f"test/{image}", "index": image, "label": 0, "method": "gradient",
            "view": view, "mode": "deletion", "fill": fill, "fraction": fraction,
            "deleted": fraction, "prediction": 0, "agrees": agrees,
            "probability": 0.5 * agrees, "logit": 2.0,
        }
        for view, images in agreement.items()
        for image, curve in enumerate(images)
        for fraction, agrees in zip(FRACTIONS, curve, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(records)


def test_image_areas_are_the_trapezoids_of_each_image() -> None:
    found = DELETION.image_scores(rows({"original": [[True, True, True], [True, False, True]]}))
    # 0.1·(1+1)/2 + 0.4·(1+1)/2 = 0.5 and 0.1·(1+0)/2 + 0.4·(0+1)/2 = 0.25.
    assert found["allegiance"].tolist() == pytest.approx([0.5, 0.25])
    assert found["probability"].tolist() == pytest.approx([0.25, 0.125])
    assert found["logit"].tolist() == pytest.approx([1.0, 1.0])
    assert found["sample_id"].tolist() == ["test/0", "test/1"]


def test_area_of_the_mean_curve_is_the_mean_of_the_areas() -> None:
    agreement = np.random.default_rng(0).random((40, 3)) < 0.6
    table = rows({"active": agreement.tolist()})
    means = score_means(DELETION, DELETION.image_scores(table), 200)
    area = next(row for row in means if row["score"] == "allegiance")
    curve = mean_curves(table, 200)
    assert area["value"] == pytest.approx(np.trapezoid(curve["allegiance"], FRACTIONS))
    assert curve["allegiance"].tolist() == pytest.approx(agreement.mean(0).tolist())
    assert (curve["low"] <= curve["allegiance"]).all()
    assert (curve["high"] >= curve["allegiance"]).all()
    assert area["low"] < area["value"] < area["high"]
    assert area["condition"] == {"mode": "deletion", "fill": "black"}
    assert (area["better"], area["images"]) == ("lower", 40)
    deleted = next(row for row in means if row["score"] == "deleted")
    assert (deleted["value"], deleted["better"]) == (0.5, None)


def test_a_score_that_is_undefined_for_some_images_is_averaged_over_the_others() -> None:
    class Half(Evaluator):
        scores = (Score("half", "higher"), Score("whole", "lower"))

        def measure(self, context, batch, maps):
            return ()

    scores = pd.DataFrame(
        {"sample_id": ["a", "b", "c"], "method": "m", "view": "v",
         "half": [1.0, np.nan, 3.0], "whole": [1.0, 2.0, 6.0]}
    )  # fmt: skip
    half, whole = score_means(Half(), scores, 50)
    assert (half["score"], half["value"], half["images"]) == ("half", 2.0, 2)
    assert (whole["score"], whole["value"], whole["images"]) == ("whole", 3.0, 3)
    assert half["condition"] == {}


def test_comparisons_pair_images_and_keep_fills_apart() -> None:
    up, down = [True, True, True], [True, False, False]
    black = rows({"original": [up] * 12, "active": [down] * 12})
    white = rows({"original": [up] * 12, "inactive": [up] * 12}, fill="white")
    found = comparisons(DELETION, DELETION.image_scores(pd.concat([black, white])), 100)
    assert [(c["a"]["view"], c["b"]["view"], c["condition"]["fill"]) for c in found] == [
        ("original", "active", "black"),
        ("original", "inactive", "white"),
    ]
    # Every image differs by 0.5 − 0.05: the exact signed-rank p of 12 equal signs is 2/2^12, and
    # Holm takes the smaller of two p-values twice.
    assert found[0]["difference"] == pytest.approx(0.45)
    assert found[0]["p"] == pytest.approx(2 / 2**12)
    assert found[0]["p_holm"] == pytest.approx(2 * 2 / 2**12)
    assert found[1]["difference"] == 0
    assert found[1]["p_holm"] == 1


def test_p_values_are_corrected_for_all_pairs_of_the_table() -> None:
    """Three maps, three pairs: Holm's steps 3·p₁, 2·p₂, p₃ on the sorted p, made to rise."""
    up, down, half = [True, True, True], [True, False, False], [True, True, False]
    table = rows(
        {
            "original": [up] * 20,
            "active": [down] * 11 + [up] * 9,
            "positive": [half] * 8 + [up] * 12,
        }
    )
    found = comparisons(DELETION, DELETION.image_scores(table), 50)
    assert [(c["a"]["view"], c["b"]["view"]) for c in found] == [
        ("original", "active"),
        ("original", "positive"),
        ("active", "positive"),
    ]
    (first, p), (second, q), (third, r) = sorted((c["p"], c["p_holm"]) for c in found)
    assert 0 < first < second < third < 0.3
    assert (p, q, r) == pytest.approx((3 * first, 2 * second, max(2 * second, third)))


def test_mean_cost_is_per_image() -> None:
    def meta(images: int, forwards: float, peak: int) -> dict[str, object]:
        stage = {"forwards": forwards, "backwards": 10.0, "seconds": 1.0}
        return {"images": images, "cost": {"maps": stage, "peak_bytes": peak}}

    found = mean_cost([meta(3, 3.0, 5), meta(1, 5.0, 9)], "maps")
    assert found == {"forwards": 2, "backwards": 5, "seconds": 0.5, "peak_bytes": 9}


def test_errors_are_told_per_image_and_only_where_a_method_says_them() -> None:
    found = estimate_table([{"estimate": [["a", 0.25, 4.0]]}, {"estimate": [["b", 0.5, 9.0]]}])
    assert found.to_dict("list") == {
        "sample_id": ["a", "b"],
        "error": [0.25, 0.5],
        "rounds": [4, 9],
    }
    assert found["rounds"].dtype == np.int64
    assert estimate_table([{"estimate": []}, {}]).empty


def test_completeness_is_told_per_image_and_only_where_it_is_claimed() -> None:
    metas = [{"completeness": [["a", 1.5, 2.0], ["b", -1.0, -1.0]]}, {"completeness": []}]
    found = completeness_table([*metas, {"completeness": [["c", 3.0, 2.75]]}])
    assert found["sample_id"].tolist() == ["a", "b", "c"]
    assert found["error"].tolist() == [0.5, 0.0, 0.25]
    assert completeness_table([{"completeness": []}, {}]).empty
