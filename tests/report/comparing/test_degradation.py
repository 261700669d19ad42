"""Maps with known shares of noise, put into order by measures whose answers are set."""

from __future__ import annotations

import dataclasses

import pytest

from saliency_lab.report.comparing.degradation import degradation_table
from saliency_lab.report.comparing.panels import build_panels
from tests.report.comparing.test_verdict import evaluation

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def degraded_run(share: float, values: list[float], *, better: str = "higher", base: str = "lrp"):
    rows = [{"sample_id": f"{at:02d}", "value": value} for at, value in enumerate(values)]
    run = evaluation("degraded", "gain", rows, better=better, control=True)
    settings = {
        "method._target_": "saliency_lab.attribution.methods.degraded.degraded",
        "method.base._target_": base,
        "method.share": str(share),
    }
    return dataclasses.replace(run, name=f"evaluate/{base}/{share}", settings=settings)


def table(runs):
    return degradation_table(build_panels(runs)).to_dict("records")


def test_a_measure_that_follows_the_noise_is_right_everywhere() -> None:
    (row,) = table([degraded_run(share, [1 - share, 2 - share]) for share in SHARES])
    assert (row["maps"], row["pairs"], row["right"]) == (5, 10, 10)
    assert (row["share right"], row["images"]) == (1, 1)


def test_lower_may_be_better() -> None:
    (row,) = table([degraded_run(share, [share], better="lower") for share in SHARES])
    assert row["right"] == 10
    (row,) = table([degraded_run(share, [share]) for share in SHARES])
    assert (row["right"], row["images"]) == (0, 0)


def test_single_images_count_beside_their_mean() -> None:
    # One image is sure, one is wrong by less, one cannot tell.
    (row,) = table([degraded_run(0, [0.9, 0.4, 0.5]), degraded_run(1, [0.1, 0.5, 0.5])])
    assert (row["pairs"], row["right"]) == (1, 1)
    assert row["images"] == pytest.approx((1 + 0 + 0.5) / 3)


def test_shares_of_different_sources_are_not_held_against_each_other() -> None:
    good = [degraded_run(share, [1 - share], base="lrp") for share in (0.0, 1.0)]
    bad = [degraded_run(share, [5 + share], base="gradient") for share in (0.0, 1.0)]
    (row,) = table(good + bad)
    assert (row["maps"], row["pairs"], row["right"]) == (4, 2, 1)


def test_nothing_is_said_of_maps_without_noise_or_of_one_share() -> None:
    assert table([evaluation("lrp", "gain", [{"sample_id": "0", "value": 1.0}])]) == []
    assert table([degraded_run(0.5, [1.0])]) == []
