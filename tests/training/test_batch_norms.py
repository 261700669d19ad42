"""Running statistics that do not fit the weights are found out, and can be taken anew."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from saliency_lab.tasks.fitting import _warn_of_lag
from saliency_lab.training.batch_norms import (
    PreciseBatchNorm,
    evaluated_accuracy,
    lags,
    renew_statistics,
)


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
    found = evaluated_accuracy(network(mean=2.0), images)
    assert found.value == pytest.approx(0.5, abs=0.1)  # all of them are called dark
    assert found.low < found.value < found.high < 0.65
    assert len(images.asked) == len(set(images.asked)) == 256
    assert lags(found, 1.0)


def test_statistics_that_fit_are_none() -> None:
    model = network()
    model.train()
    found = evaluated_accuracy(model, _Images())
    assert found.value == 1.0
    assert not lags(found, 1.0)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("trained", [0.4, 0.5, 0.56])
def test_what_chance_may_explain_is_no_lag(trained) -> None:
    assert not lags(evaluated_accuracy(network(mean=2.0), _Images()), trained)


def test_a_network_without_running_statistics_is_not_asked() -> None:
    images = _Images()
    assert evaluated_accuracy(network(running=False), images) is None
    assert evaluated_accuracy(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), images) is None
    assert images.asked == []
    assert not lags(None, 1.0)


def test_few_images_are_all_asked() -> None:
    images = _Images(count=40)
    assert evaluated_accuracy(network(mean=2.0), images).value == 0.5
    assert sorted(images.asked) == list(range(40))


def test_the_training_says_so(caplog) -> None:
    for mean in (0.43, 2.0):
        _warn_of_lag(evaluated_accuracy(network(mean=mean), _Images()), 0.99)
    (record,) = caplog.records
    assert "trained 0.990: its batch norms' running statistics lag" in record.getMessage()


# Taken anew ------------------------------------------------------------------------------------


def deep_network() -> nn.Module:
    """Two batch norms, the second of which sees what the first makes, and dropout between them."""
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)]
    second = [nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2, momentum=0.3), nn.Flatten(), nn.Linear(32, 2)]
    return nn.Sequential(*first, *second)


def test_they_are_means_over_batches_of_the_statistics_of_each() -> None:
    model, data = deep_network(), _Images(count=60)
    data.batch_size = 20
    model[1].running_mean.fill_(7.0)
    renew_statistics(model, data, 60)
    order = np.random.default_rng(data.seed).permutation(60)
    means, variances = [], []
    for part in np.split(order, 3):  # by hand, in float64
        pixels = torch.from_numpy(data.images("train", part)).double() / 255
        seen = torch.nn.functional.conv2d(pixels, model[0].weight.double(), model[0].bias.double())
        means.append(seen.mean((0, 2, 3)))
        variances.append(seen.var((0, 2, 3), correction=1))
    assert torch.allclose(model[1].running_mean.double(), torch.stack(means).mean(0), atol=1e-6)
    assert torch.allclose(model[1].running_var.double(), torch.stack(variances).mean(0), atol=1e-6)


def test_they_are_those_of_torch_for_a_network_without_dropout() -> None:
    ours, data = deep_network(), _Images(count=60)
    data.batch_size = 20
    ours[3].p = 0.0
    peers = copy.deepcopy(ours)
    renew_statistics(ours, data, 60)
    order = np.random.default_rng(data.seed).permutation(60)
    batches = [
        torch.from_numpy(data.images("train", part)).float() / 255 for part in np.split(order, 3)
    ]
    torch.optim.swa_utils.update_bn(batches, peers)
    for name, value in peers.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name


def test_everything_else_stays_as_it_was() -> None:
    model, data = deep_network(), _Images()
    data.batch_size = 100
    model.train()
    model[5].eval()  # frozen on purpose
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    renew_statistics(model, data, 256)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert [module.training for module in model] == [True] * 5 + [False, True, True]
    assert [model[1].momentum, model[5].momentum] == [0.1, 0.3]
    assert torch.equal(torch.get_rng_state(), random)
    assert len(data.asked) == len(set(data.asked)) == 256
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_in_evaluation_mode_has_all_of_them_renewed() -> None:
    model, data = deep_network(), _Images()
    data.batch_size = 100
    renew_statistics(model.eval(), data, 200)
    assert int(model[1].num_batches_tracked) == int(model[5].num_batches_tracked) == 2
    assert not any(module.training for module in model.modules())


def test_a_network_without_any_is_left_alone_and_the_training_says_so(caplog) -> None:
    data = _Images()
    renew_statistics(network(running=False), data, 200)
    assert data.asked == []
    for model in (network(running=False), network()):
        PreciseBatchNorm().on_fit_start(None, model)
    assert [record.getMessage()[:47] for record in caplog.records] == [
        "callback=precise_batch_norm changes nothing: th"
    ]


def test_an_error_on_the_way_leaves_the_momenta() -> None:
    model, data = deep_network(), _Images()
    data.batch_size = 100
    model[7] = nn.Linear(5, 2)
    with pytest.raises(RuntimeError, match="shapes"):
        renew_statistics(model, data, 100)
    assert [model[1].momentum, model[5].momentum] == [0.1, 0.3]
