"""Curves over the fraction or over the deleted share: the same points at other places."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.removal import deletion_levels
from saliency_lab.report.drawing.axes import axis_title, checked_axis, places
from saliency_lab.report.drawing.figures import curves_figure
from saliency_lab.report.drawing.palette import style_of
from saliency_lab.report.drawing.plots import chart_svg, lines_of

FRACTIONS = (0.0, 0.1, 0.3, 0.5, 0.9)


def _deleted(values: torch.Tensor) -> np.ndarray:
    levels = deletion_levels(values, FRACTIONS, "threshold")
    return np.array([float((levels <= at).float().mean()) for at in range(len(FRACTIONS))])


@pytest.fixture
def curves() -> pd.DataFrame:
    """A full map, and one that is 0 on three quarters of 100 pixels, measured both ways."""
    values = torch.arange(1.0, 101.0).reshape(1, 10, 10)
    sparse = torch.where(values > 75, values, 0.0)
    frames = []
    for view, found in (("original", values), ("active", sparse)):
        for mode in ("deletion", "insertion"):
            deleted = _deleted(found)
            agreed = 1 - deleted
            frame = {"method": "gradient", "view": view, "mode": mode, "fill": "black"}
            frame |= {"fraction": FRACTIONS, "allegiance": agreed, "low": agreed, "high": agreed}
            gone = deleted if mode == "deletion" else 1 - deleted
            frames.append(pd.DataFrame(frame | {"deleted": gone, "key": f"gradient/{view}"}))
    return pd.concat(frames, ignore_index=True)


def test_a_map_that_is_zero_on_three_quarters_deletes_a_quarter(curves: pd.DataFrame) -> None:
    part = curves[(curves["view"] == "active") & (curves["mode"] == "deletion")]
    np.testing.assert_allclose(places(part, "fraction"), FRACTIONS)
    # Threshold: the pixels above the value at position round(p · 100) of the sorted map.
    np.testing.assert_allclose(places(part, "deleted_share"), [0, 0.1, 0.25, 0.25, 0.25], atol=1e-6)
    full = curves[(curves["view"] == "original") & (curves["mode"] == "deletion")]
    np.testing.assert_allclose(places(full, "deleted_share"), FRACTIONS, atol=1e-6)


def test_an_insertion_lies_at_the_share_put_back(curves: pd.DataFrame) -> None:
    part = curves[(curves["view"] == "active") & (curves["mode"] == "insertion")]
    np.testing.assert_allclose(places(part, "deleted_share"), [0, 0.1, 0.25, 0.25, 0.25], atol=1e-6)


def test_the_figure_moves_points_and_says_which_axis_it_has(curves: pd.DataFrame) -> None:
    for axis, expected in (
        ("fraction", FRACTIONS),
        ("deleted_share", (0.0, 0.1, 0.25, 0.25, 0.25)),
    ):
        ax = curves_figure(curves, "Sparse", checked_axis(axis)).axes[0]
        lines = {line.get_label(): line for line in ax.lines}
        np.testing.assert_allclose(lines["active"].get_xdata(), expected, atol=1e-6)
        # The agreement itself is the same whatever it is drawn over.
        np.testing.assert_allclose(lines["active"].get_ydata(), [1, 0.9, 0.75, 0.75, 0.75])
        assert ax.get_xlabel() == axis_title(checked_axis(axis), "deletion")
    assert "nominal" in axis_title("fraction", "deletion")
    assert axis_title("deleted_share", "insertion").startswith("share of pixels inserted")


def test_the_inline_drawing_ends_where_the_map_does(curves: pd.DataFrame) -> None:
    part = curves[curves["mode"] == "deletion"]
    styles = {f"gradient/{view}": style_of("gradient", view) for view in ("original", "active")}
    lines = lines_of(part, styles, "deleted_share")
    svg = chart_svg(lines, name="n", x_title="t")
    drawn = re.findall(r'class="line" d="([^"]+)"', svg)
    ends = [float(path.rsplit("L", 1)[1].split()[0]) for path in drawn]
    left, right = (float(re.search(rf'data-{side}="(\d+)"', svg)[1]) for side in ("left", "right"))
    assert ends[0] == pytest.approx(right, abs=0.1)
    assert ends[1] == pytest.approx(left + (right - left) * 0.25 / 0.9, abs=0.1)


def test_another_axis_is_refused() -> None:
    with pytest.raises(UserError, match="`curves_over` to be one of fraction, deleted_share"):
        checked_axis("deleted")
