"""Networks that were trained elsewhere: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VisionTransformer

import saliency_lab as sl
from saliency_lab.attribution.methods.attn_lrp import attn_lrp
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.gradient_attention import gradient_attention
from saliency_lab.attribution.methods.legrad import legrad
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.constant_shift.evaluator import ConstantShift
from saliency_lab.evaluation.context import Context, Method
from saliency_lab.evaluation.randomisation.evaluator import Randomisation
from saliency_lab.inference.engine import Engine
from saliency_lab.models.given import given_classifier, has_layers
from saliency_lab.models.own import exported, huggingface, torchscript
from saliency_lab.models.own_network import OwnNetwork
from saliency_lab.models.preprocessor import preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
MODULE = """
import torch

class Small(torch.nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, width, 3)
        self.head = torch.nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))

def no_module():
    return 3
"""


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    ).eval()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    network, images = _network(), torch.rand(2, 3, 12, 12)
    torch.jit.trace(network, images).save(str(tmp_path / "net.pt"))
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(network, (images,), dynamic_shapes=shapes), tmp_path / "net.pt2"
    )
    torch.export.save(torch.export.export(network, (images,)), tmp_path / "fixed.pt2")
    return tmp_path


def test_preprocessing_by_hand() -> None:
    network = _network()
    images = torch.rand(2, 3, 20, 24)
    own = OwnNetwork(network, MEAN, STD, (12, 10))
    small = F.interpolate(images, (12, 10), mode="bilinear", antialias=True)
    channel = [(small[:, c] - MEAN[c]) / STD[c] for c in range(3)]
    torch.testing.assert_close(own(images), network(torch.stack(channel, 1)))
    # Maps have the size of the images that went in, and the gradient passes through both steps.
    found = sl.explain(own, images, "original")["original"]
    assert found.shape == (2, 20, 24)
    asked = images.clone().requires_grad_()
    logits = own(asked)
    (gradient,) = torch.autograd.grad(logits[range(2), logits.argmax(1)].sum(), asked)
    torch.testing.assert_close(found, gradient.abs().amax(1))
    with pytest.raises(UserError, match="both to be given"):
        OwnNetwork(network, MEAN, None, None)


def test_what_was_frozen_stays_frozen_and_the_rest_is_trained() -> None:
    def modes(network: nn.Module) -> list[bool]:
        own = OwnNetwork(network, MEAN, STD, None)
        first = [module.training for module in own.network]
        # Tried once, asked, and trained again, as all networks are.
        own.eval()
        assert not any(module.training for module in own.modules())
        own.train()
        assert own.training
        assert [module.training for module in own.network] == first
        return first

    def layers() -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.BatchNorm2d(3))

    assert modes(layers()) == [True, True, True]
    partly = layers()
    partly[0].eval()
    assert modes(partly) == [False, True, True]
    # With fixed weights, but in training mode as its maker left it.
    assert modes(layers().requires_grad_(False)) == [True, True, True]
    # As a whole ready to be asked: what `from_pretrained` gives.
    assert modes(layers().eval()) == [True, True, True]
    fixed = layers().eval()
    fixed[0].requires_grad_(False)
    assert modes(fixed) == [False, True, True]
    backbone = nn.Sequential(layers().requires_grad_(False), nn.Dropout(), nn.BatchNorm2d(3))
    assert modes(backbone.eval()) == [False, True, True]
    assert not any(module.training for module in backbone[0])


def test_a_transformer_behind_its_preprocessing_has_its_own_maps() -> None:
    """LeGrad has every block answer, which are more logits than there are images."""
    torch.manual_seed(0)
    vit = VisionTransformer(16, 4, 2, 3, 12, 24, num_classes=3).eval()
    nn.init.normal_(vit.heads.head.weight)
    images, targets = torch.rand(2, 3, 16, 16), torch.tensor([2, 0])
    own = OwnNetwork(vit, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None)
    for source in (legrad, gradient_attention, attn_lrp):
        expected = source(vit, images).of(targets)
        torch.testing.assert_close(source(own, images).of(targets), expected)
        assert float(expected.std()) > 0
    halves = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 6), nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1)
    )
    doubled = OwnNetwork(halves, MEAN, STD, None)
    with pytest.raises(UserError, match=r"logits of shape \(1, K\), but got \(2, 3\)"):
        sl.explain(doubled, images)


@pytest.mark.parametrize(("factory", "name"), [(torchscript, "net.pt"), (exported, "net.pt2")])
def test_a_file_gives_the_logits_and_maps_of_the_network(factory, name, files) -> None:
    network, images = _network(), torch.rand(5, 3, 12, 12)
    component = {"_target_": f"saliency_lab.models.own.{factory.__name__}", "file": files / name}
    component = {**component, "file": str(files / name), "mean": MEAN, "std": STD}
    found = given_classifier(component, ("a", "b", "c"), (3, 12, 12))
    assert not has_layers(component)
    assert not found.network.network.training
    assert not factory(3, file=str(files / name)).training
    expected = sl.normalized(network, MEAN, STD)
    torch.testing.assert_close(found.network(images), expected(images))
    modes = [module.training for module in found.network.modules()]
    for method in ("five_views", "smoothgrad", "occlusion", "integrated_gradients"):
        mine, theirs = (sl.explain(net, images[:2], method) for net in (found.network, expected))
        for view, values in mine.items():
            torch.testing.assert_close(values, theirs[view], rtol=1e-4, atol=1e-6)
    assert [module.training for module in found.network.modules()] == modes
    # Prepared for speed it gives the same, in parts of any size.
    ready = sl.prepared(found.network, images)
    torch.testing.assert_close(ready.logits(images[:3]), expected(images[:3]), rtol=1e-4, atol=1e-5)


def test_frozen_torchscript_has_no_mode_of_its_own(files) -> None:
    network, images = _network(), torch.rand(2, 3, 12, 12)
    torch.jit.freeze(torch.jit.script(network)).save(str(files / "frozen.pt"))
    own = torchscript(3, file=str(files / "frozen.pt"), mean=MEAN, std=STD)
    normalised = sl.normalized(network, MEAN, STD)
    found, expected = (sl.explain(model, images, "active") for model in (own, normalised))
    torch.testing.assert_close(found["active"], expected["active"])


@pytest.mark.parametrize(("factory", "name"), [(torchscript, "net.pt"), (exported, "net.pt2")])
@pytest.mark.parametrize("evaluator", [Randomisation(), ConstantShift()])
def test_what_changes_layers_refuses_a_file(factory, name, evaluator, files) -> None:
    images = torch.rand(2, 3, 12, 12)
    ready = Engine().prepare(factory(3, file=str(files / name), mean=MEAN, std=STD), images)
    method = Method("gradient", gradient, ("original",))
    context = Context(ready, method, Shapes(name="shapes"), "test", 1)
    with pytest.raises(UserError, match="made of modules for evaluator=mine"):
        evaluator.check(context, "mine")


def test_files_that_are_no_networks(files, caplog) -> None:
    (files / "text.pt").write_text("no network")
    for factory in (torchscript, exported):
        with pytest.raises(UserError, match="truncated or of another kind"):
            factory(3, file=str(files / "text.pt"))
        with pytest.raises(UserError, match=r"`model\.file` to be a"):
            factory(3, file=None)
    assert not caplog.records
    with pytest.raises(UserError, match=r"2 images at a time; export it with dynamic_shapes"):
        exported(3, file=str(files / "fixed.pt2"))


def test_a_module_of_ones_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_small.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    own_small = importlib.import_module("own_small")
    trained = own_small.Small(3, width=5)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    component = {
        "_target_": "saliency_lab.models.own.python",
        "target": "own_small.Small",
        "arguments": {"width": 5},
        "weights": str(tmp_path / "weights.pt"),
    }
    images = torch.rand(2, 3, 9, 9)
    assert has_layers(component)
    found = given_classifier(component, ("a", "b", "c"), (3, 9, 9))
    torch.testing.assert_close(found.network(images), trained(images))
    assert not any(module.training for module in found.modules())
    # Names of the logits in another order, and more of them than the data have.
    named = {**component, "classes": ["c", "x", "a"]}
    chosen = given_classifier(named, ("a", "c"), (3, 9, 9))
    torch.testing.assert_close(chosen.network(images), trained(images)[:, [2, 0]])
    assert chosen.facts["classes"] == ["a", "c"]
    for wrong, said in (
        ({"classes": ["c", "x", "y"]}, "a is not among its 3"),
        ({"target": None}, r"`model\.target` to be given"),
        ({"target": "own_small.Nope"}, "importable"),
        ({"target": "own_small.no_module", "arguments": {}}, "gives a int"),
        ({"arguments": {"depth": 2}}, "unexpected keyword argument 'depth'"),
        ({"arguments": {"width": 6}}, "does not: Error"),
        ({"weights": str(tmp_path / "none.pt")}, "there is none at"),
    ):
        with pytest.raises(UserError, match=said):
            given_classifier({**component, **wrong}, ("a", "c", "x"), (3, 9, 9))


def test_what_a_preprocessor_says(tmp_path) -> None:
    assert preprocessing(tmp_path) == {}
    stored = {"image_mean": [0.5], "image_std": [0.25], "size": {"height": 8, "width": 6}}
    for size, expected in (
        ({"height": 8, "width": 6}, (8, 6)),
        ({"shortest_edge": 8}, (8, 8)),
        (8, (8, 8)),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**stored, "size": size}))
        found = preprocessing(tmp_path)
        assert found == {"image_mean": [0.5], "image_std": [0.25], "size": expected}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({**stored, "do_normalize": False})
    )
    assert preprocessing(tmp_path) == {"size": (8, 6)}
    crop = {"do_center_crop": True, "crop_size": {"height": 7, "width": 5}}
    for further, expected in (
        (crop, {"image_mean": [0.5], "image_std": [0.25], "size": (7, 5)}),
        ({"do_resize": False}, {"image_mean": [0.5], "image_std": [0.25]}),
        # (2x − 0.5) / 0.25, and the same of pixels in 0 … 255.
        ({"rescale_factor": 2 / 255, "size": None}, {"image_mean": [0.25], "image_std": [0.125]}),
        (
            {"do_rescale": False, "size": None},
            {"image_mean": [0.5 / 255], "image_std": [0.25 / 255]},
        ),
        (
            {"rescale_factor": 1 / 127.5, "do_normalize": False, "size": None},
            {"image_mean": [0.0] * 3, "image_std": [0.5] * 3},
        ),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**stored, **further}))
        assert preprocessing(tmp_path) == expected
    flipping = json.dumps({**stored, "do_flip_channel_order": True})
    (tmp_path / "preprocessor_config.json").write_text(flipping)
    with pytest.raises(UserError, match="flips them"):
        preprocessing(tmp_path)


def test_what_the_preprocessor_of_an_efficientnet_does_further(tmp_path) -> None:
    """An offset of the rescaled pixels, and a second division by the deviation."""
    mean, std, pixels = (0.5, 0.4), (0.25, 0.5), np.array([[0.0, 51.0, 255.0]] * 2)
    plain = {"image_mean": mean, "image_std": std}
    kind = {"image_processor_type": "EfficientNetImageProcessor"}
    m, s = (np.array(values)[:, None] for values in (mean, std))
    unit, signed = pixels / 255, pixels / 127.5 - 1
    offset = {"rescale_factor": 1 / 127.5, "rescale_offset": True}
    for further, expected in (
        ({"include_top": False, **kind}, (unit - m) / s),
        ({"include_top": True}, (unit - m) / s / s),
        # Its own default, which a folder may leave out.
        (kind, (unit - m) / s / s),
        ({"include_top": True, "do_normalize": False}, unit / s),
        (offset, (signed - m) / s),
        ({**offset, "include_top": True}, (signed - m) / s / s),
        ({**offset, "do_normalize": False, "include_top": True}, signed / s),
        # Another factor: 1 is taken off whatever the range was.
        ({"rescale_offset": True}, (unit - 1 - m) / s),
        # Without rescaling there is no offset either.
        ({"do_rescale": False, "rescale_offset": True}, (pixels - m) / s),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**plain, **further}))
        found = preprocessing(tmp_path)
        (first, second) = (np.array(found[name])[:, None] for name in ("image_mean", "image_std"))
        np.testing.assert_allclose((unit - first) / second, expected, rtol=1e-5, atol=1e-5)
    bare = {**offset, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(bare))
    assert preprocessing(tmp_path) == {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"include_top": True}))
    with pytest.raises(UserError, match="to say its `image_std`"):
        preprocessing(tmp_path)


def test_without_transformers_a_folder_is_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match=r"a folder with a config\.json"):
        huggingface(3, folder=str(tmp_path))
    if importlib.util.find_spec("transformers") is None:
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(UserError, match="pip install transformers"):
            huggingface(3, folder=str(tmp_path))


def test_an_image_classifier_of_hugging_face(tmp_path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    stored = {"image_mean": list(MEAN), "image_std": list(STD), "size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    own = huggingface(3, folder=str(tmp_path))
    assert all(module.training for module in own.modules())
    own.eval()
    images = torch.rand(2, 3, 8, 8)
    expected = network(sl.normalized(nn.Identity(), MEAN, STD)(images)).logits
    torch.testing.assert_close(own(images), expected)
    assert np.isfinite(sl.explain(own, images, "active")["active"].numpy()).all()
