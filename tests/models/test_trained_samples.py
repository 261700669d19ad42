"""What a checkpoint says of the samples that it was trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.trained_samples import (
    FACT,
    joined_digests,
    sample_digests,
    trained_samples,
)


def test_trained_samples_are_found_among_others() -> None:
    facts = {FACT: sample_digests(["b/2.png", "a/1.png", "ü/3.png"])}
    found = trained_samples(facts, ["a/1.png", "a/2.png", "ü/3.png", "b/1.png", "b/2.png"])
    assert found is not None
    assert found.tolist() == [True, False, True, False, True]


def test_a_checkpoint_without_a_list_says_nothing() -> None:
    assert trained_samples({"classes": []}, ["a"]) is None


def test_digests_are_the_documented_ones() -> None:
    """On any machine: a checkpoint travels."""
    expected = [
        int.from_bytes(hashlib.blake2b(one, digest_size=8).digest(), "little", signed=True)
        for one in (b"x", b"y")
    ]
    assert sample_digests(["x", "y", "x"]).tolist() == sorted(expected)


def test_fifty_thousand_ids_are_small_and_load_without_code(tmp_path: Path) -> None:
    ids = [f"train/airplane/{number:05d}.png" for number in range(50_000)]
    torch.save({"facts": {FACT: sample_digests(ids)}}, tmp_path / "c.ckpt")
    assert (tmp_path / "c.ckpt").stat().st_size < 450_000
    facts = torch.load(tmp_path / "c.ckpt", weights_only=True)["facts"]
    found = trained_samples(facts, [*ids, "test/airplane/00000.png"])
    assert found is not None
    assert found.sum() == 50_000


def test_a_continued_training_keeps_the_earlier_samples() -> None:
    model = Classifier(torch.nn.Linear(1, 2), 2, facts={FACT: sample_digests(["b", "c"])})
    model.on_load_checkpoint({"facts": {FACT: sample_digests(["a", "b"])}})
    assert torch.equal(model.facts[FACT], sample_digests(["a", "b", "c"]))
    model.on_load_checkpoint({"facts": {}})
    assert torch.equal(model.facts[FACT], joined_digests(sample_digests(["c", "b", "a"])))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_training_leaves_its_samples_in_the_checkpoint(command, tmp_path: Path, share) -> None:
    outcome = command(
        "train", "data.train_images=40", "data.test_images=20", "trainer.max_epochs=1",
        "trainer=cpu", "logger=none", f"data.validation={share}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.glob("outputs/**/last.ckpt")
    facts = load_classifier(path).facts
    train = [f"shapes/train/{number}" for number in range(40)]
    test = [f"shapes/test/{number}" for number in range(20)]
    found = trained_samples(facts, [*train, *test])
    assert found is not None
    assert not found[40:].any()
    assert found.sum() == 40 if share == 0 else 10 <= found.sum() <= 30
