"""Each similarity against scipy and scikit-image, map by map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity

from saliency_lab.errors import UserError
from saliency_lab.evaluation.randomisation.similarity import (
    RANGES,
    SIMILARITIES,
    hog_features,
    similarities,
)

Map = NDArray[np.float64]


def unit(values: Map) -> Map:
    return (values - values.min()) / (values.max() - values.min())


def features(values: Map, cell: int = 8) -> Map:
    return hog(unit(values), pixels_per_cell=(cell, cell))


ORACLES: dict[str, Callable[[Map, Map], float]] = {
    "spearman": lambda a, b: stats.spearmanr(a.ravel(), b.ravel()).statistic,
    "pearson": lambda a, b: stats.pearsonr(a.ravel(), b.ravel()).statistic,
    "ssim": lambda a, b: structural_similarity(unit(a), unit(b), data_range=1.0),
    "hog": lambda a, b: stats.pearsonr(features(a), features(b)).statistic,
    "top_k": lambda a, b: (
        len(
            set(np.argsort(-a, axis=None, kind="stable")[:102])
            & set(np.argsort(-b, axis=None, kind="stable")[:102])
        )
        / 102
    ),
}


def pairs(kind: str) -> tuple[Map, Map]:
    rng = np.random.default_rng(3)
    a = rng.standard_normal((6, 32, 32))
    b = a + rng.standard_normal((6, 32, 32))
    if kind == "ties":
        # Half of a positive map is exactly zero; rounding ties many of the others.
        return np.maximum(a, 0).round(1), np.maximum(b, 0).round(1)
    if kind == "tiny":
        return a * 1e-180, b * 1e-170
    return a, b


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("kind", ["plain", "ties", "tiny"])
def test_each_map_has_the_similarity_that_the_oracle_gives(name: str, kind: str) -> None:
    a, b = pairs(kind)
    expected = [ORACLES[name](x * scale, y * scale)
                for scale in [1e170 if kind == "tiny" else 1.0]
                for x, y in zip(a, b, strict=True)]  # fmt: skip
    found = similarities(torch.from_numpy(a), torch.from_numpy(b), [name])[name]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    low, high = RANGES[name]
    assert low <= min(expected) < 0.9 < high


def test_float32_maps_agree_to_five_digits() -> None:
    a, b = (values.astype(np.float32) for values in pairs("plain"))
    found = similarities(torch.from_numpy(a), torch.from_numpy(b))
    for name, oracle in ORACLES.items():
        expected = [oracle(*pair) for pair in zip(a.astype(float), b.astype(float), strict=True)]
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (35, 50), (96, 64), (12, 20)])
def test_histograms_of_oriented_gradients_are_those_of_scikit_image(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    # Integers make exact ties of angles at the edges of bins.
    values = np.stack([rng.uniform(size=shape), rng.integers(0, 3, shape).astype(float)])
    cell = min(8, shape[0] // 3, shape[1] // 3)
    expected = [hog(one, pixels_per_cell=(cell, cell)) for one in values]
    found = hog_features(torch.from_numpy(values)).flatten(2)
    # scikit-image orders a block by row, column, orientation.
    blocks = found.view(2, -1, 9, 9).transpose(2, 3).reshape(2, -1)
    # Its sums are in single precision.
    np.testing.assert_allclose(blocks, expected, atol=1e-7)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_equal_and_constant_maps_have_a_similarity(name: str) -> None:
    varied, flat = torch.rand(1, 16, 16), torch.full((1, 16, 16), 0.3)

    def of(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(similarities(a, b, [name])[name])

    assert of(varied, varied.clone()) == pytest.approx(1)
    assert of(varied, varied * 7) == pytest.approx(1)
    assert of(flat, varied) == of(varied, flat) == 0
    assert of(flat, flat + 1) == 1


def test_reversed_ranks_are_minus_one() -> None:
    values = torch.rand(2, 8, 8)
    found = similarities(values, -values, ["spearman", "pearson"])
    assert found["spearman"].tolist() == pytest.approx([-1, -1])
    assert found["pearson"].tolist() == pytest.approx([-1, -1])


def test_top_pixels_of_unrelated_maps_overlap_by_chance() -> None:
    maps = torch.rand(400, 20, 20, generator=torch.Generator().manual_seed(0))
    found = similarities(maps[:200], maps[200:], ["top_k"], share=0.25)["top_k"]
    assert float(found.mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("a", "b", "names", "reason"),
    [
        ((2, 8, 8), (2, 8, 9), ["pearson"], "one shape"),
        ((2, 6, 6), (2, 6, 6), ["ssim"], "7×7"),
        ((2, 8, 8), (2, 8, 8), ["spearmen"], "spearman"),
    ],
)
def test_unusable_maps_are_refused(a: Any, b: Any, names: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        similarities(torch.rand(*a), torch.rand(*b), names)


def test_a_map_that_is_not_finite_has_no_similarity_and_harms_no_other() -> None:
    a, b = torch.rand(3, 16, 16), torch.rand(3, 16, 16)
    b[1, 4, 4] = torch.nan
    whole, alone = similarities(a, b), similarities(a[2:], b[2:])
    for name, values in whole.items():
        assert values.isnan().tolist() == [False, True, False]
        assert values[2] == alone[name]
