"""`ckpt=none`: a network of one's own gets the numbers that a training of this program would."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from saliency_lab.evaluation.rows.format import read_scores
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.training.brought_along import brought_along

WORDS = (
    *("data=shapes", "data.train_images=20", "data.test_images=12"),
    *("trainer=cpu", "logger=none", "method=active"),
)
EVALUATE = ("evaluate", *WORDS, "resamples=20", "examples=2")
MODULE = """
from saliency_lab.models.network import network

def build(num_classes, name="basic_cnn"):
    return network(name, num_classes)
"""


@pytest.fixture
def own(tmp_path, classifier_file, monkeypatch):
    """The classifier of a checkpoint as a file of weights, TorchScript and an exported program."""
    classifier = load_classifier(classifier_file)
    network, images = classifier.network, torch.rand(2, *classifier.facts["input_shape"])
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    torch.jit.trace(network, images).save(str(tmp_path / "net.pt"))
    (tmp_path / "own_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    # Another test's module of this name lay in another folder.
    monkeypatch.delitem(sys.modules, "own_module", raising=False)
    return {
        "torchscript": ("model=torchscript", "model.file=net.pt"),
        "python": ("model=python", "model.target=own_module.build", "model.weights=weights.pt"),
    }


def _scores(tmp_path, name):
    (place,) = tmp_path.glob(f"outputs/evaluate/shapes/{name}/active/*")
    return place, read_scores(place, "deletion").set_index("sample_id").sort_index()


def test_the_numbers_are_those_of_the_checkpoint(command, tmp_path, classifier_file, own):
    outcome = command(*EVALUATE, f"ckpt={classifier_file}")
    assert outcome.code == 0, outcome.err
    _, expected = _scores(tmp_path, "basic_cnn")
    numbers = [name for name in expected if pd.api.types.is_float_dtype(expected[name])]
    for name, words in own.items():
        outcome = command(*EVALUATE, "ckpt=none", *words)
        assert outcome.code == 0, outcome.err
        place, found = _scores(tmp_path, name)
        np.testing.assert_allclose(found[numbers], expected[numbers], rtol=1e-3, atol=1e-5)
        summary = json.loads((place / "summary.json").read_text())
        assert summary["checkpoint"]["path"] == "none"
        assert "already finished" in command(*EVALUATE, "ckpt=none", *words).out

    # Moved it is the same network; other weights or another text are another one.
    (tmp_path / "moved.pt").write_bytes((tmp_path / "weights.pt").read_bytes())
    moved = (*own["python"][:2], "model.weights=moved.pt")
    assert "already finished" in command(*EVALUATE, "ckpt=none", *moved).out
    state = torch.load(tmp_path / "moved.pt")
    torch.save({key: 2 * value for key, value in state.items()}, tmp_path / "moved.pt")
    assert "already finished" not in command(*EVALUATE, "ckpt=none", *moved).out
    (tmp_path / "own_module.py").write_text(MODULE + "\n# another text\n")
    assert "already finished" not in command(*EVALUATE, "ckpt=none", *own["python"]).out
    assert len(list(tmp_path.glob("outputs/evaluate/shapes/python/active/*"))) == 3


def test_arguments_of_ones_own_target(command, own):
    words = (*EVALUATE, "ckpt=none", *own["python"])
    outcome = command(*words, "model.arguments={name: basic_cnn}")
    assert outcome.code == 0, outcome.err
    wrong = command(*words, "model.arguments={nome: basic_cnn}")
    assert wrong.code == 2
    assert "`model.target`" in wrong.err
    mistyped = command(*words, "maps=kep")
    assert mistyped.code == 2
    assert "Expected `maps` to be one of discard, keep" in mistyped.err


def test_explain_draws_a_network_of_ones_own(command, tmp_path, own):
    words = ("explain", *WORDS, "ckpt=none", *own["torchscript"], "target=star")
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    assert list(tmp_path.glob("outputs/explain/shapes/torchscript/active/*/figures/grid.png"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=resnet18",), "to be a network that is trained already with ckpt=none"),
        (("model=torchscript", "model.file=net.pt", "method=grad_cam"), "are not accessible"),
        (("model=torchscript", "model.file=nope.pt"), "a file, but there is none at 'nope.pt'"),
        (("model=torchscript",), "`model.file` to be given"),
        (("model=python", "model.target=nope.build"), "can be imported"),
        (("model=torchscript", "model.file=net.pt", "model.mean=[0.5]"), "`model.std`"),
        (("model=torchscript", "model.file=net.pt", "method=gad"), "support models"),
    ],
)
def test_what_is_refused(words, said, command, own):
    outcome = command(*EVALUATE, "ckpt=none", *words)
    assert outcome.code == 2, outcome.err
    assert said in outcome.err.splitlines()[-1]


def test_a_file_of_a_network_is_not_trained(command, own):
    outcome = command("train", *WORDS[:-1], *own["torchscript"])
    assert outcome.code == 2
    assert "evaluate it with ckpt=none" in outcome.err


NORMALISED = """
import torch

class Normalised(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.frozen = torch.nn.BatchNorm2d(3).eval().requires_grad_(False)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.dropout = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4, num_classes)

    def forward(self, images):
        if self.training:
            assert self.dropout.training and not self.frozen.training
        features = self.norm(self.conv(self.frozen(images)))
        return self.head(self.dropout(torch.relu(features).mean((2, 3))))

def ready(num_classes):
    return Normalised(num_classes).eval()
"""


@pytest.mark.parametrize("target", ["Normalised", "ready"])
def test_a_network_of_ones_own_is_trained_in_training_mode(command, tmp_path, monkeypatch, target):
    (tmp_path / "own_normalised.py").write_text(NORMALISED)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("trainer.max_epochs=2", "data.validation=0.2", "data.batch_size=8")
    chosen = ("model=python", f"model.target=own_normalised.{target}")
    outcome = command("train", *WORDS[:-1], *words, *chosen)
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.glob("outputs/**/checkpoints/last.ckpt")
    classifier = load_classifier(path)
    network = classifier.network.network
    assert int(network.norm.num_batches_tracked) == 4
    assert network.norm.running_mean.abs().max() > 0
    assert int(network.frozen.num_batches_tracked) == 0
    assert not network.frozen.weight.requires_grad
    # What is loaded is asked and not trained.
    assert not any(module.training for module in classifier.modules())
    images = torch.rand(2, *classifier.facts["input_shape"])
    assert torch.equal(classifier(images), classifier(images))


def test_settings_of_a_persons_own_target_count_by_value_and_files_by_content(
    tmp_path, monkeypatch
):
    (tmp_path / "own_target.py").write_text("def build(num_classes, file): ...")
    monkeypatch.syspath_prepend(tmp_path)
    component = {"_target_": "own_target.build", "name": "mine"}
    digests = {brought_along({**component, "file": file})["sha256"] for file in (1, 2, "two")}
    assert len(digests) == 3
    for name in ("one.pt", "two.pt"):
        (tmp_path / name).write_bytes(b"the same")
    same = {
        brought_along({**component, "file": str(tmp_path / name)})["sha256"]
        for name in ("one.pt", "two.pt")
    }
    assert len(same) == 1
    assert not same & digests
