"""Agreement of measures over fills, images and each other, against SciPy and closed forms."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from saliency_lab.report.comparing.agreement import fill_table, image_table, measure_table
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.reading.records import read_records
from tests.report.comparing.test_verdict import evaluation, values_run
from tests.report.rundirs import write_evaluation

METHODS = tuple("abcdefgh")
FILLS = ("black", "white", "mean")


def means_of(seed: int) -> dict[str, np.ndarray]:
    """A value per fill and method, with ties."""
    rng = np.random.default_rng(seed)
    return {fill: np.round(rng.normal(size=len(METHODS)), 1) for fill in FILLS}


def fill_runs(values: dict[str, np.ndarray]):
    runs = []
    for at, method in enumerate(METHODS):
        rows = [
            {"sample_id": f"{image:02d}", "fill": fill, "value": float(values[fill][at])}
            for fill in FILLS
            for image in range(4)
        ]
        runs.append(evaluation(method, "gain", rows, keys=("fill",)))
    return runs


def test_fills_agree_as_scipys_tau_says() -> None:
    values = means_of(1)
    (row,) = fill_table(build_panels(fill_runs(values))).to_dict("records")
    taus = {
        (a, b): stats.kendalltau(values[a], values[b]).statistic
        for a, b in itertools.combinations(FILLS, 2)
    }
    assert row["mean tau"] == pytest.approx(np.mean(list(taus.values())))
    assert row["least tau"] == pytest.approx(min(taus.values()))
    assert set(row["least agree"].split(" and ")) == set(min(taus, key=lambda pair: taus[pair]))
    assert (row["maps"], row["fills"], row["score"]) == (8, 3, "value")
    assert row["low"] < row["mean tau"] < row["high"]


def test_the_same_order_under_every_fill_is_full_agreement() -> None:
    order = np.arange(len(METHODS), dtype=float)
    same = {"black": order, "white": order**3, "mean": order - 5}
    (row,) = fill_table(build_panels(fill_runs(same))).to_dict("records")
    assert row["mean tau"] == pytest.approx(1)
    assert row["low"] == pytest.approx(1)


def test_images_that_rank_alike_have_an_alpha_of_one() -> None:
    runs = [values_run(method, "gain", float(at)) for at, method in enumerate(METHODS)]
    (row,) = image_table(build_panels(runs)).to_dict("records")
    assert row["alpha"] == pytest.approx(1)
    rng = np.random.default_rng(2)
    noisy = [
        evaluation(
            method, "gain",
            [{"sample_id": f"{image:03d}", "value": float(rng.normal())} for image in range(300)],
        )
        for method in METHODS
    ]  # fmt: skip
    (row,) = image_table(build_panels(noisy)).to_dict("records")
    assert abs(row["alpha"]) < 0.03
    assert row["images"] == 300


def test_measures_are_turned_so_that_better_is_up() -> None:
    values = means_of(3)
    runs = []
    for at, method in enumerate(METHODS):
        runs += [
            values_run(method, "gain", float(values["black"][at])),
            values_run(method, "area", float(values["white"][at]), better="lower"),
            values_run(method, "describes", float(at), better=None),
        ]
    (row,) = measure_table(build_panels(runs)).to_dict("records")
    assert {row["a"], row["b"]} == {"gain", "area"}
    wanted = stats.kendalltau(values["black"], -values["white"]).statistic
    assert row["kendall"] == pytest.approx(wanted)
    rho = stats.spearmanr(values["black"], -values["white"]).statistic
    assert row["spearman"] == pytest.approx(rho)


def test_fewer_than_five_maps_are_not_ranked() -> None:
    runs = fill_runs(means_of(1))[:4]
    panels = build_panels(runs)
    assert fill_table(panels).empty
    assert image_table(panels).empty
    assert measure_table(panels).empty


def test_drawn_fractions_are_a_measure_of_their_own(tmp_path: Path) -> None:
    for name, draws in (("whole/seed=42", None), ("drawn/seed=42", 4)):
        write_evaluation(tmp_path, name=name, draws=draws, count=6, size=8, shown=1)
    panels = build_panels(read_records(tmp_path).evaluations)
    assert len(panels) == 2
    table = measure_table(panels)
    names = {name for name in {*table["a"], *table["b"]} if "black" in name}
    assert len(names) == 2
    assert sorted(name.partition("(")[2] for name in names) == ["threshold)", "threshold, 4 draws)"]


def test_one_measure_under_two_settings_is_two_measures(tmp_path: Path) -> None:
    for name, last in (("one/seed=42", 1.0), ("other/seed=42", 0.5)):
        settings = {"fractions": [0.0, 0.25, last]}
        write_evaluation(tmp_path, name=name, settings=settings, count=6, size=8, shown=1)
    panels = build_panels(read_records(tmp_path).evaluations)
    assert len(panels) == 2
    table = measure_table(panels)
    names = {name for name in {*table["a"], *table["b"]} if "black" in name}
    assert len(names) == 2
