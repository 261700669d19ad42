from __future__ import annotations

import pytest
import timm
import torch

from saliency_lab.errors import UserError
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.network import network

TARGET = "saliency_lab.models.network.network"


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet10t.pt"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    return path


def saved(path, classes=("a", "b", "c"), shape=(3, 32, 32), **settings):
    """A checkpoint as training writes it, and the classifier that it is of."""
    torch.manual_seed(0)
    net = network("resnet10t", len(classes), shape[0], image_size=shape[1:], **settings)
    model = {"_target_": TARGET, "name": "resnet10t", **settings}
    facts = {"model": model, "classes": list(classes), "input_shape": list(shape)}
    classifier = Classifier(net, len(classes), facts=facts)
    content = {"state_dict": classifier.state_dict()}
    classifier.on_save_checkpoint(content)
    torch.save(content, path)
    return classifier.eval()


@pytest.mark.parametrize(
    "settings", [{}, {"head": "on_logits"}, {"train": "all", "normalize": "none"}]
)
def test_rebuilt_without_the_weights_it_started_from(settings, weights_file, tmp_path, monkeypatch):
    source = tmp_path / "start.pt"
    source.write_bytes(weights_file.read_bytes())
    original = saved(tmp_path / "last.ckpt", weights=str(source), **settings)
    source.unlink()
    loaded = load_classifier(tmp_path / "last.ckpt")
    assert not loaded.training
    assert loaded.facts == original.facts
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), original(images))
    frozen = [[p.requires_grad for p in c.parameters()] for c in (loaded, original)]
    assert frozen[0] == frozen[1]


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    original = saved(tmp_path / "last.ckpt", pretrained=True, load_weights=False)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del content["facts"]["model"]["load_weights"]
    torch.save(content, tmp_path / "last.ckpt")
    monkeypatch.setattr("timm.models._builder.load_pretrained", pytest.fail)
    loaded = load_classifier(tmp_path / "last.ckpt")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), original(images))


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        (lambda content: content.pop("facts"), "train task"),
        (lambda content: content["facts"].pop("classes"), "train task"),
        (lambda content: content.pop("state_dict"), "to fit the model"),
        (lambda content: content["state_dict"].popitem(), "to fit the model"),
        (lambda content: content["facts"]["classes"].append("d"), "to fit the model"),
        (lambda content: content["facts"]["model"].update(name="resnet999"), "resnet999"),
        (lambda content: content["facts"]["model"].update(colour="red"), r"model\.colour"),
    ],
)
def test_what_is_no_checkpoint_of_ours(change, pieces, tmp_path):
    path = tmp_path / "last.ckpt"
    saved(path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(UserError, match=pieces):
        load_classifier(path)


def test_missing_and_other_files(tmp_path, weights_file):
    with pytest.raises(UserError, match="`ckpt` to be a file"):
        load_classifier(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="train task"):
        load_classifier(weights_file)
