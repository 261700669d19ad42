"""Running statistics that do not fit the weights are found out on training images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from saliency_lab.tasks.fitting import _warn_of_lag
from saliency_lab.training.batch_norms import lagging_accuracy


class _Images:
    """Dark images of class 0 and bright ones of class 1."""

    seed = 3

    def __init__(self, count: int = 600) -> None:
        rng = np.random.default_rng(0)
        self._labels = np.arange(count) % 2
        noise = rng.integers(0, 100, (count, 3, 4, 4))
        self._pixels = (noise + 120 * self._labels[:, None, None, None]).astype(np.uint8)
        self.asked: list[int] = []

    def labels(self, split: str) -> np.ndarray:
        assert split == "train"
        return self._labels

    def images(self, split: str, indices: np.ndarray) -> np.ndarray:
        self.asked += list(indices)
        return self._pixels[indices]


def network(*, running: bool = True, mean: float = 0.43) -> nn.Module:
    """Bright or dark, by the sign of what a batch norm leaves of the brightness."""
    norm = nn.BatchNorm2d(1, track_running_stats=running)
    mixing, last = nn.Conv2d(3, 1, 1, bias=False), nn.Linear(16, 2, bias=False)
    with torch.no_grad():
        mixing.weight.fill_(1 / 3)
        last.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
        if running:
            norm.running_mean.fill_(mean)
            norm.running_var.fill_(0.06)
    return nn.Sequential(mixing, norm, nn.Flatten(), last)


def test_statistics_of_other_weights_are_found() -> None:
    images = _Images()
    found = lagging_accuracy(network(mean=2.0), images, trained=1.0)
    assert found.value == pytest.approx(0.5, abs=0.1)  # all of them are called dark
    assert found.low < found.value < found.high < 0.65
    assert len(images.asked) == len(set(images.asked)) == 256


def test_statistics_that_fit_are_none() -> None:
    model = network()
    model.train()
    assert lagging_accuracy(model, _Images(), trained=1.0) is None
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("trained", [0.4, 0.5, 0.56])
def test_what_chance_may_explain_is_none(trained) -> None:
    assert lagging_accuracy(network(mean=2.0), _Images(), trained) is None


def test_a_network_without_running_statistics_is_not_asked() -> None:
    images = _Images()
    assert lagging_accuracy(network(running=False), images, trained=1.0) is None
    assert lagging_accuracy(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), images, 1.0) is None
    assert images.asked == []


def test_few_images_are_all_asked() -> None:
    images = _Images(count=40)
    assert lagging_accuracy(network(mean=2.0), images, trained=1.0).value == 0.5
    assert sorted(images.asked) == list(range(40))


def test_the_training_says_so(caplog) -> None:
    for mean in (0.43, 2.0):
        _warn_of_lag(_Images(), SimpleNamespace(network=network(mean=mean)), 0.99)
    (record,) = caplog.records
    assert "trained 0.990: its batch norms' running statistics lag" in record.getMessage()
