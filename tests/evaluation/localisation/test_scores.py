from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

import saliency_lab as sl
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.evaluation.localisation.scores import localisation


def slow(values: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Every score from its definition, pair by pair and threshold by threshold."""
    values, mask = values.ravel().astype(float), mask.ravel()
    inside, outside = values[mask], values[~mask]
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    precision, recall, ious = [], [0.0], []
    for threshold in sorted(set(values), reverse=True):
        shown = values >= threshold
        hits = (shown & mask).sum()
        precision.append(hits / shown.sum())
        recall.append(hits / mask.sum())
        ious.append(hits / (shown | mask).sum())
    count = int(mask.sum())
    above = np.sort(values)[::-1][count - 1]
    sure, tied = values > above, values == above
    fill = (count - sure.sum()) * (tied & mask).sum() / tied.sum()
    return {
        "roc_auc": float(np.mean(pairs)),
        "energy_inside": inside.clip(0).sum() / values.clip(0).sum(),
        "pointing_game": mask[values == values.max()].mean(),
        "average_precision": float(np.dot(np.diff(recall), precision)),
        "best_iou": max(ious),
        "top_k": ((sure & mask).sum() + fill) / count,
        "mask_share": mask.mean(),
    }


@pytest.mark.parametrize("kind", ["distinct", "tied", "negative", "flat"])
def test_definitions_pair_by_pair(kind):
    rng = np.random.default_rng(0)
    maps = rng.random((6, 5, 7))
    if kind == "tied":
        maps = rng.integers(0, 4, maps.shape) / 4
    elif kind == "negative":
        maps -= 0.7
    elif kind == "flat":
        maps = np.full_like(maps, 0.5)
    masks = rng.random(maps.shape) < np.linspace(0.05, 0.9, 6)[:, None, None]
    masks[:, 2, 2], masks[:, 0, 0] = True, False
    found = localisation(torch.from_numpy(maps).float(), torch.from_numpy(masks))
    for number in range(6):
        expected = slow(maps[number].astype(np.float32), masks[number])
        for name, value in expected.items():
            assert float(found[name][number]) == pytest.approx(value, abs=1e-6), (name, number)


def test_a_mask_as_its_own_map_is_perfect_and_its_opposite_the_worst():
    masks = torch.zeros(1, 6, 6, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    best, worst = localisation(masks.float(), masks), localisation(-masks.float(), masks)
    names = (
        *("roc_auc", "energy_inside", "pointing_game"),
        *("average_precision", "best_iou", "top_k"),
    )
    assert all(float(best[name]) == 1 for name in names)
    assert float(worst["roc_auc"]) == float(worst["pointing_game"]) == float(worst["top_k"]) == 0
    # Every order begins with 30 misses; the six hits are one tie.
    assert float(worst["average_precision"]) == pytest.approx(6 / 36)
    assert float(worst["best_iou"]) == pytest.approx(6 / 36)


def test_the_chance_of_average_precision_over_all_orders():
    mask = torch.tensor([[True, False, True, False, False, True]])[None]
    orders = torch.tensor(list(permutations(range(6)))).float()[:, None]
    found = localisation(orders, mask.expand(720, 1, 6))
    assert float(found["average_precision"].mean()) == pytest.approx(
        float(found["average_precision_chance"][0]), abs=1e-9
    )
    assert float(found["roc_auc"].mean()) == pytest.approx(0.5)
    for name in ("pointing_game", "top_k", "energy_inside"):
        assert float(found[name].mean()) == pytest.approx(0.5), name
    # Each image has a random map of its own.
    assert float(found["best_iou"].mean()) == pytest.approx(
        float(found["best_iou_chance"].mean()), abs=0.01
    )


def test_nothing_to_tell_apart_gives_what_a_random_map_gets():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1] = True
    found = localisation(torch.rand(2, 4, 4), masks)
    assert found["roc_auc"].tolist() == [0.5, 0.5]
    for name in ("energy_inside", "pointing_game", "average_precision", "best_iou", "top_k"):
        assert found[name].tolist() == [0, 1], name
    half = torch.arange(16).view(1, 4, 4) < 8
    empty = localisation(torch.zeros(1, 4, 4), half)
    assert float(empty["energy_inside"]) == 0.5


def test_batches_and_generators():
    maps, masks = torch.rand(3, 8, 8), torch.rand(3, 8, 8) < 0.3
    whole = localisation(maps, masks, generator=SampleGenerator(1, "abc"))
    alone = localisation(maps[2:], masks[2:], generator=SampleGenerator(1, "c"))
    for name, values in whole.items():
        assert float(values[2]) == float(alone[name][0]), name
        assert values.shape == (3,)


def test_the_public_face_and_its_refusals():
    assert sl.localisation is localisation
    with pytest.raises(UserError, match=r"`masks` to be bool of the maps' shape \(1, 4, 4\)"):
        sl.localisation(torch.rand(1, 4, 4), torch.ones(1, 4, 4))
    with pytest.raises(UserError, match="but got"):
        sl.localisation(torch.rand(1, 4, 4), torch.ones(1, 4, 5, dtype=torch.bool))
