"""How many images comparisons need, against the normal approximation, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.comparing.sizes import size_table
from tests.report.comparing.test_verdict import evaluation, gate_run


def run_of(method: str, values: np.ndarray, **further):
    rows = [{"sample_id": f"{at:03d}", "value": float(value)} for at, value in enumerate(values)]
    return evaluation(method, "gain", rows, **further)


def test_a_small_difference_needs_more_images_by_its_square() -> None:
    rng = np.random.default_rng(3)
    base, noise = rng.normal(size=400), rng.normal(size=400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    runs = [run_of("gradient", base)]
    runs += [run_of(name, base + shift + noise) for name, shift in (("a", 0.5), ("b", 0.1))]
    near, far = (row for row in sorted(size_table(build_panels(runs)).to_dict("records"), key=str))
    by_map = {row["map"]: row for row in (near, far)}
    # ((1.959964 + 0.841621) / 0.5)² and / 0.1, and two more for a deviation that is not known.
    assert by_map["a"]["images needed"] == math.ceil((2.801585 / 0.5) ** 2) + 2 == 34
    assert by_map["b"]["images needed"] == math.ceil((2.801585 / 0.1) ** 2) + 2 == 787
    assert by_map["a"]["difference"] == pytest.approx(0.5)
    assert by_map["a"]["against"] == "original"
    # 2 · 1.96 · 1 / √n, from 200 resamples.
    assert by_map["a"]["width with 100"] == pytest.approx(0.392, rel=0.2)
    assert by_map["a"]["width with 1,000"] == pytest.approx(0.124, rel=0.2)


def test_what_has_no_better_side_or_is_a_gate_needs_none() -> None:
    values = np.arange(10.0)
    plain = [run_of("gradient", values, better=None), run_of("a", values + 1, better=None)]
    assert size_table(build_panels(plain)).empty
    assert size_table(build_panels([gate_run("gradient", "passed"), gate_run("a", "failed")])).empty
    same = [run_of("gradient", values), run_of("a", values)]
    assert size_table(build_panels(same)).empty
