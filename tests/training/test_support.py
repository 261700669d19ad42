"""Support models: what they aim at, that they are made once, and that a kill loses one epoch."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from saliency_lab.attribution.methods.gad import SupportTraining
from saliency_lab.data.shapes import Shapes
from saliency_lab.training.support import NETWORK, SupportPlace, distanced_logits
from saliency_lab.training.trainer import trainer

SETTINGS = SupportTraining(alphas=(0, 3), epochs=3, learning_rate=1e-2, batch_size=4)


class KilledError(Exception):
    """In place of a kill."""


class Kill(pl.Callback):
    """Ends a training in the middle of its second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise KilledError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2),
    ).eval()  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(tmp_path / "cache"))

    def make(name: str, *callbacks: pl.Callback) -> SupportPlace:
        def make_trainer(directory, own, epochs):
            return trainer(accelerator="cpu", max_epochs=epochs, progress="off",
                           directory=directory, callbacks=[*own, *callbacks])  # fmt: skip

        return SupportPlace(tmp_path / name, SETTINGS, 42, make_trainer)

    return make


def data():
    shapes = Shapes(train_images=60, test_images=20, classes=["circle", "square"], batch_size=4)
    assert len(shapes.split("train")) >= 8
    return shapes


def untouched():
    pytest.fail("models that are kept need no data")


def test_the_wrong_class_is_lowered():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = distanced_logits(logits, torch.tensor([0, 1]), 6.0)
    assert found.tolist() == [[1.0, -4.0], [-3.0, 4.0]]


def test_models_are_made_once_and_lie_where_they_are_named(place, network, tmp_path):
    before = copy.deepcopy(network.state_dict())
    made = place("once").models(network, data, controls=True)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    names = sorted(path.parent.name for path in (tmp_path / "once").glob(f"*/{NETWORK}"))
    assert names == ["alpha-0-order-0", "alpha-0-order-1", "alpha-3-order-1"]
    assert not list((tmp_path / "once").rglob("*.ckpt"))
    assert made.retrained[0] is made.distanced[0]
    for support in (*made.distanced, made.retrained[1]):
        assert not support.training
        assert not any(parameter.requires_grad for parameter in support.parameters())
    again = place("once").models(network, untouched, controls=True)
    for one, other in zip(made.distanced, again.distanced, strict=True):
        same(one, other)


def same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_alpha_moves_the_wrong_logit_and_retraining_alone_hardly(place, network):
    images = data()
    made = place("moved").models(network, data, controls=True)
    pixels = torch.from_numpy(images.images("train", range(len(images.split("train"))))) / 255
    wrong = 1 - torch.from_numpy(images.labels("train"))
    with torch.no_grad():
        was = network(pixels).gather(1, wrong[:, None]).mean()
        plain, distanced, retrained = (
            float(support(pixels).gather(1, wrong[:, None]).mean() - was)
            for support in (made.distanced[0], made.distanced[1], made.retrained[1])
        )
    assert distanced < min(plain, retrained) - 0.2
    assert abs(plain - retrained) < 0.2


def test_a_network_that_is_at_its_goal_stays_there(place):
    torch.manual_seed(1)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 2),
    ).eval()  # fmt: skip
    made = place("goal").models(plain, data, controls=False)
    same(made.distanced[0], plain)
    epochs = [
        len((place("goal").directory / name / "metrics.csv").read_text().splitlines()) - 1
        for name in ("alpha-0-order-0", "alpha-3-order-1")
    ]
    assert epochs == [1, 3]
    controls = place("goal").models(plain, data, controls=True)
    # The same weights: the explained network itself, which a source need not ask again.
    assert controls.retrained == (plain, plain)
    assert controls.distanced[0] is plain
    assert controls.distanced[1] is not plain


def test_a_killed_training_ends_as_one_that_was_never_killed(place, network, caplog):
    whole = place("whole").models(network, data, controls=False)
    with pytest.raises(KilledError):
        place("killed", Kill()).models(network, data, controls=False)
    killed = place("killed").directory / "alpha-0-order-0"
    assert (killed / "checkpoints" / "last.ckpt").is_file()
    assert not (killed / NETWORK).exists()
    caplog.set_level(logging.INFO)
    resumed = place("killed").models(network, data, controls=False)
    assert "resuming from last.ckpt: support model, α = 0, order 0" in caplog.text
    for one, other in zip(whole.distanced, resumed.distanced, strict=True):
        same(one, other)


def test_a_damaged_file_is_made_anew(place, network, caplog):
    made = place("damaged").models(network, data, controls=False)
    file: Path = place("damaged").directory / "alpha-3-order-1" / NETWORK
    file.write_bytes(file.read_bytes()[:200])
    again = place("damaged").models(network, data, controls=False)
    assert "retraining it" in caplog.text
    same(made.distanced[1], again.distanced[1])
