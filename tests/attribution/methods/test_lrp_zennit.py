"""LRP's rules and composites against zennit on VGG16 and ResNet-18, batch norms merged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import VGG, cfgs, make_layers

from saliency_lab.attribution.methods.lrp import lrp

composites = pytest.importorskip("zennit.composites", reason="zennit is not installed")

from zennit import rules  # noqa: E402
from zennit.torchvision import ResNetCanonizer, VGGCanonizer  # noqa: E402
from zennit.types import Convolution  # noqa: E402

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.filterwarnings("ignore")]


def _everywhere(rule: Any, *, first: Any = None, stabilizer: float = 1e-6) -> Any:
    """One rule for all layers, maybe another for the first; zennit's own for what lies between."""
    layers = [*composites.layer_map_base(stabilizer), (Convolution, rule), (nn.Linear, rule)]
    if first is None:
        return composites.LayerMapComposite(layers)
    return composites.SpecialFirstLayerMapComposite(layers, [(Convolution, first)])


PEERS: dict[str, Callable[[], Any]] = {
    "epsilon_plus": composites.EpsilonPlus,
    "epsilon_plus_flat": composites.EpsilonPlusFlat,
    "epsilon_alpha2_beta1": composites.EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": composites.EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": partial(composites.EpsilonGammaBox, low=0.0, high=1.0),
    # ε by itself is input × gradient here and adds nothing to the denominators of sums and pools,
    # zennit's 1e-6, which moves the map by 1e-4 of its maximum.
    "epsilon": lambda: _everywhere(rules.Epsilon(1e-6), stabilizer=1e-14),
    "gamma": lambda: _everywhere(rules.Gamma(0.25)),
    "alpha_beta": lambda: _everywhere(rules.AlphaBeta(2, 1)),
    "z_plus": lambda: _everywhere(rules.ZPlus()),
    "w_square": lambda: _everywhere(rules.WSquare()),
    "flat": lambda: _everywhere(rules.Flat()),
    "z_box": lambda: _everywhere(rules.Epsilon(1e-6), first=rules.ZBox(0.0, 1.0)),
}


def _vgg16() -> nn.Module:
    """The thirteen convolutions; a smaller head, as one of 120 million weights tests nothing."""
    model = VGG(make_layers(cfgs["D"], batch_norm=True), init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "vgg16": (_vgg16, VGGCanonizer),
    "resnet18": (lambda: ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10), ResNetCanonizer),
}


def _network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[kind][0]()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def _zennits(
    model: nn.Module, composite: Any, canonizer: Any, images: Tensor, classes: Tensor, eps: float
) -> Tensor:
    """zennit's relevance, with this eps left in the batch norms that it has merged."""
    composite.canonizers = [canonizer]
    norms = {one: one.eps for one in model.modules() if isinstance(one, nn.BatchNorm2d)}
    with composite.context(model) as changed:
        for norm in norms:
            norm.eps = eps
        pixels = images.clone().requires_grad_(True)
        logits = changed(pixels)
        chosen = torch.zeros_like(logits).scatter_(1, classes[:, None], 1)
        (found,) = torch.autograd.grad(logits, pixels, chosen * logits.detach())
    for norm, own in norms.items():
        norm.eps = own
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_zennit_agrees(kind: str) -> None:
    model, (_, canonizer) = _network(kind), NETWORKS[kind]
    images, classes = torch.rand(1, 3, 32, 32), torch.tensor([3])
    for name, peer in PEERS.items():
        expected = _zennits(model, peer(), canonizer(), images, classes, 0.0)
        setting = {"composite": name} if name.startswith("epsilon_") else {"rule": name}
        found = lrp(model, images, epsilon=1e-6, scale="absolute", **setting).of(classes)
        worst = (found - expected).abs().max() / expected.abs().max()
        assert worst < 1e-9, name


def test_what_zennit_leaves_of_a_merged_batch_norm() -> None:
    """It merges weight, bias, mean and variance but not eps: each layer is scaled by 1 − 5e-6."""
    model, images, classes = _network("resnet18"), torch.rand(1, 3, 32, 32), torch.tensor([3])
    found = lrp(model, images, epsilon=1e-6, scale="absolute", composite="epsilon_plus").of(classes)
    apart = {}
    for eps in (0.0, 1e-5, 1e-4):
        peer = _zennits(model, PEERS["epsilon_plus"](), ResNetCanonizer(), images, classes, eps)
        apart[eps] = float((found - peer).abs().max() / peer.abs().max())
    assert apart[0.0] < 1e-9
    assert 1e-5 < apart[1e-5] < 1e-4
    assert apart[1e-4] == pytest.approx(10 * apart[1e-5], rel=0.05)
