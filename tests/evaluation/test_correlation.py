"""Correlations against SciPy, and what constant sides give."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from saliency_lab.evaluation.correlation import pearson, spearman


def test_correlations_are_scipys() -> None:
    stream = torch.Generator().manual_seed(0)
    a = torch.rand(3, 40, generator=stream).round(decimals=1)
    b = torch.rand(3, 40, generator=stream) + a
    for row in range(3):
        expected = stats.pearsonr(a[row].double(), b[row].double()).statistic
        assert pearson(a, b)[row].item() == pytest.approx(expected, abs=1e-12)
        expected = stats.spearmanr(a[row], b[row]).statistic
        assert spearman(a, b)[row].item() == pytest.approx(expected, abs=1e-12)


def test_scale_and_shift_do_not_count_and_constants_say_nothing() -> None:
    a = torch.tensor([[1.0, 2.0, 4.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0]]).double()
    assert pearson(a, a * 1e-12 + 3e-12)[0].item() == pytest.approx(1)
    assert pearson(a[0], -7 * a[0]).item() == pytest.approx(-1)
    assert pearson(a, a)[1:].tolist() == [0, 0]
    # A constant that sums leave with rounding errors is a constant.
    rounded = torch.tensor([0.1 + 0.2, 0.3, 0.3], dtype=torch.float64)
    assert rounded[0] != rounded[1]
    assert pearson(rounded, a[0]).item() == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_has_no_correlation(value: float) -> None:
    rows = torch.rand(3, 6, dtype=torch.float64)
    rows[1, 2] = value
    other = torch.arange(6.0)
    for found in (pearson(rows, other), pearson(other, rows)):
        assert found.isnan().tolist() == [False, True, False]
    if value != value:
        assert spearman(rows, other).isnan().tolist() == [False, True, False]
