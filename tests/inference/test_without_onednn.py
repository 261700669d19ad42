"""A build of PyTorch without oneDNN runs the model itself."""

from __future__ import annotations

import pytest
import torch

from saliency_lab.inference import convolution, dense, phases
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN


class Nothing:
    """What torch.ops.mkldnn is where there are no such operations."""

    def __getattr__(self, name: str) -> None:
        raise AttributeError(f"'_OpNamespace' 'mkldnn' object has no attribute '{name}'")


def test_the_model_itself_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (convolution, dense, phases):
        monkeypatch.setattr(module, "_ONEDNN", Nothing())
    torch.manual_seed(0)
    network, images = BasicCNN(num_classes=5).eval(), torch.rand(3, 3, 32, 32)
    prepared = Engine().prepare(network, images)
    assert prepared.model is network
    assert "no attribute" in str(prepared.reason)
    with torch.no_grad():
        assert torch.allclose(prepared.logits(images), network(images), atol=1e-6)
