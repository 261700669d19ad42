"""Verdicts, curves and histograms of a randomisation against closed forms and slow references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from saliency_lab.evaluation.randomisation.complexity import histogram_entropy, relative_rise
from saliency_lab.evaluation.randomisation.gate import (
    gate_table,
    image_means,
    layer_curves,
    verdict,
)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.6, 0.7, "failed"), (0.1, 0.2, "passed"), (0.1, 0.4, "undecided"), (0.4, 0.6, "undecided"),
     (-0.2, 0.9, "undecided"), (0.5, 0.6, "undecided")],
)  # fmt: skip
def test_a_verdict_needs_the_whole_interval(low: float, high: float, said: str) -> None:
    assert verdict(low, high, 0.3, 0.5) == said


def rows(similar: dict[tuple[str, int], float], images: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = []
    for (mode, step), mean in similar.items():
        for draw in range(2):
            frames.append(
                pd.DataFrame(
                    {
                        "sample_id": [f"test/{i}" for i in range(images)],
                        "index": range(images),
                        "label": 0,
                        "method": "gradient",
                        "view": "original",
                        "mode": mode,
                        "variant": "plain",
                        "draw": draw,
                        "step": step,
                        "layer": f"layer {step}",
                        "spearman": mean + 0.01 * rng.standard_normal(images) + 0.1 * draw,
                    }
                )
            )
    found = pd.concat(frames, ignore_index=True)
    return found.astype({"mode": "category", "layer": "category"})


def test_a_map_fails_if_it_fails_either_test() -> None:
    steps = {("full", 3): 0.0, ("cascading", 1): 0.9, ("cascading", 2): 0.8, ("cascading", 3): 0.0}
    (found,) = gate_table(rows(steps), 0.3, 0.5)
    assert found["verdict"] == "failed"
    upper, everything = found["tests"]
    assert (upper["test"], upper["step"], upper["verdict"]) == ("upper half", 2, "failed")
    assert (everything["test"], everything["step"]) == ("all layers", 3)
    assert everything["verdict"] == "passed"
    # Draws are averaged: 0.8 and 0.9.
    assert upper["value"] == pytest.approx(0.85, abs=0.005)
    assert upper["low"] < upper["value"] < upper["high"]


def test_without_cascading_the_end_alone_decides() -> None:
    (found,) = gate_table(rows({("full", 3): 0.1, ("independent", 1): 0.9}), 0.3, 0.5)
    assert [test["test"] for test in found["tests"]] == ["all layers"]
    assert found["verdict"] == "passed"


def test_curves_and_scores_are_means_over_draws() -> None:
    table = rows({("cascading", 1): 0.6, ("cascading", 2): 0.2})
    curves = layer_curves(table, ["spearman"], 200)
    assert curves["layer"].tolist() == ["layer 1", "layer 2"]
    by_hand = table.groupby("step")["spearman"].mean()
    np.testing.assert_allclose(curves["spearman"], by_hand)
    assert (curves["spearman_low"] < curves["spearman"]).all()
    scores = image_means(table, ["spearman"])
    assert len(scores) == 60
    first = table[table["sample_id"] == "test/7"]["spearman"].mean()
    assert scores.loc[scores["sample_id"] == "test/7", "spearman"].item() == pytest.approx(first)


def test_the_histogram_is_numpy_s_and_its_entropy_scipy_s() -> None:
    rng = np.random.default_rng(1)
    maps = np.stack([rng.standard_normal((16, 16)), rng.integers(0, 5, (16, 16)).astype(float)])
    for bins in (10, 100):
        expected = [stats.entropy(np.histogram(one, bins)[0]) for one in maps]
        np.testing.assert_allclose(histogram_entropy(torch.from_numpy(maps), bins), expected)
    assert float(histogram_entropy(torch.full((1, 8, 8), 0.2))) == 0
    uniform = torch.arange(100.0).view(1, 10, 10)
    assert float(histogram_entropy(uniform)) == pytest.approx(np.log(100))


def test_the_rise_is_relative_to_the_intact_map() -> None:
    found = relative_rise(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([2.0, 2.0, 0.0]))
    assert found.tolist() == [0.5, -0.5, 0]


def test_images_without_a_similarity_are_left_out() -> None:
    table = rows({("full", 3): 0.1})
    table.loc[table["sample_id"] == "test/3", "spearman"] = np.nan
    (found,) = gate_table(table, 0.3, 0.5)
    assert found["tests"][0]["images"] == 59
    (found,) = gate_table(table.assign(spearman=np.nan), 0.3, 0.5)
    assert found["verdict"] == "undecided"
    assert histogram_entropy(torch.full((1, 4, 4), torch.inf)).isnan()


def test_few_images_decide_little() -> None:
    """One image decides nothing; two that differ have Student's interval, wide as it is."""
    table = rows({("full", 3): 0.9})
    one = table[table["sample_id"] == "test/3"]
    assert gate_table(one, 0.3, 0.5)[0]["verdict"] == "undecided"
    two = table[table["sample_id"].isin(["test/3", "test/4"])].copy()
    two["spearman"] = two["sample_id"].map({"test/3": 0.8, "test/4": 0.9})
    (found,) = gate_table(two, 0.3, 0.5)
    assert found["verdict"] == "undecided"
    assert found["tests"][0]["low"] == pytest.approx(0.85 - np.tan(0.475 * np.pi) * 0.05)
