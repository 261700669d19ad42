"""`explain`: several classes in one command, and maps laid over the images."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saliency_lab.data.decoding import decoded
from saliency_lab.errors import UserError
from saliency_lab.explanation import explain
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.tasks.examples import own_examples
from saliency_lab.tasks.explain import Explained, _own_names, target_classes

CLASSES = ("cat", "dog", "7")


def test_targets_by_name_by_number_and_each_once() -> None:
    assert target_classes(None, CLASSES) == []
    assert target_classes("dog", CLASSES) == [1]
    assert target_classes(["dog", "cat", 1], CLASSES) == [1, 0]
    # A class that is called by a number goes before the number of a class.
    assert target_classes("7", CLASSES) == [2]


def test_classes_that_a_files_name_cannot_tell_apart_have_files_of_their_own() -> None:
    found = [Explained(name, torch.zeros(1), {}) for name in ("c+", "c#", "church")]
    assert _own_names(found) == ["-c__0", "-c__1", "-church"]
    assert _own_names(found[:1]) == [""]


@pytest.mark.parametrize("wrong", ["dgo", ["cat", "dgo"], ["cat", 3], [], [["cat"]]])
def test_unknown_targets_are_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="Expected `target` to be"):
        target_classes(wrong, CLASSES)


def test_two_targets_give_the_maps_of_each(command, tmp_path, classifier_file):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    words = (
        *("explain", "data=shapes", "trainer=cpu", "logger=none", "method=active"),
        *(f"ckpt={classifier_file}", "images=[0.png,1.png]"),
    )
    outcome = command(*words, "target=[star,circle]", "overlay=true")
    assert outcome.code == 0, outcome.err
    (table,) = tmp_path.glob("outputs/explain/*/*/active/*/explanations.csv")
    assert "target-star_circle" in table.parent.name
    rows = pd.read_csv(table)
    assert rows["explained"].tolist() == ["star", "star", "circle", "circle"]
    assert outcome.out.count("circle") >= 2
    names = {path.name for path in (table.parent / "figures").iterdir()}
    stems = {f"{form}-{name}" for form in ("grid", "overlay") for name in ("star", "circle")}
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}

    model = load_classifier(classifier_file)
    side = model.facts["input_shape"][1]
    images = torch.from_numpy(
        np.stack([decoded(tmp_path / f"{n}.png", side, "stretch") for n in range(2)])
    )
    with np.load(table.parent / "maps.npz") as stored:
        for name in ("star", "circle"):
            target = torch.full((2,), model.facts["classes"].index(name))
            expected = explain(model.network, images / 255, "active", targets=target)["active"]
            np.testing.assert_allclose(stored[f"active_{name}"], expected, rtol=1e-4, atol=1e-7)

    # Overlays decide no number: the same run without them lies in the same directory.
    assert command(*words, "target=[star,circle]").code == 0
    assert list(tmp_path.glob("outputs/explain/*/*/active/*")) == [table.parent]
    assert not list(table.parent.glob("figures/overlay*"))
    refused = command(*words, "target=[star,circel]")
    assert refused.code == 2
    assert "Did you mean 'circle'" in refused.err
    assert list(tmp_path.glob("outputs/explain/*/*/active/*")) == [table.parent]


@pytest.mark.parametrize(
    ("shape", "resize"),
    [((3, 16, 20), "stretch"), ((1, 16, 20), "stretch"), ((1, 8, 8), "crop"), ((3, 8, 8), "crop")],
)
def test_files_become_what_the_classifier_takes(tmp_path, shape, resize):
    channels, height, width = shape
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, 3))
    model = Classifier(network, 3, facts={"input_shape": list(shape)})
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = own_examples([tmp_path / "a.png"], model, resize)
    with Image.open(tmp_path / "a.png") as image:
        if resize == "stretch":
            expected = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            expected = image.resize((15, 9), Image.Resampling.BILINEAR).crop((3, 0, 11, 8))
        weights = [0.299, 0.587, 0.114]
        expected = np.asarray(expected, dtype=np.float64).transpose(2, 0, 1)
        if channels == 1:
            expected = np.tensordot(weights, expected, 1)[None]
    assert found.images.shape == (1, *shape)
    assert np.abs(found.images[0] - expected).max() <= (0 if channels == 3 else 0.51)


@pytest.mark.parametrize(("shape", "resize"), [((4, 8, 8), "stretch"), ((3, 16, 20), "crop")])
def test_a_classifier_of_what_no_file_becomes_is_named(tmp_path, shape, resize):
    model = Classifier(torch.nn.Flatten(), 3, facts={"input_shape": list(shape)})
    with pytest.raises(UserError, match=f"`images` to be left out .*data.resize={resize}"):
        own_examples([tmp_path / "a.png"], model, resize)


def test_files_are_resized_as_the_trainings_images_were(command, tmp_path):
    draw = np.random.default_rng(0)
    for number in range(8):
        for name in ("a", "b"):
            pixels = draw.integers(0, 256, (24, 40, 3), dtype=np.uint8)
            (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"pets/{name}/{number}.png")
    quick = ("trainer=cpu", "logger=none", "model=basic_cnn")
    data = ("data=folder", "data.root=pets", "data.size=32", "data.resize=crop")
    outcome = command("train", *data, *quick, "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    (last,) = tmp_path.glob("outputs/train/folder/*/*/checkpoints/last.ckpt")
    expected = decoded(tmp_path / "pets/a/0.png", 32, "crop")

    def seen(*words: str) -> bool:
        asked = (
            "explain",
            *quick[:2],
            "method=gradient",
            "images=[pets/a/0.png]",
            "overwrite=true",
        )
        outcome = command(*asked, *words)
        assert outcome.code == 0, outcome.err
        found = max(
            tmp_path.glob("outputs/explain/*/*/*/*/maps.npz"), key=lambda p: p.stat().st_mtime
        )
        with np.load(found) as stored:
            return np.array_equal(stored["images"], expected[None])

    assert seen(f"run={last.parents[1]}")
    shutil.copy(last, tmp_path / "elsewhere.ckpt")
    assert seen("ckpt=elsewhere.ckpt", "data=shapes")
    # A checkpoint of an earlier version does not say it; its training does, or whoever names it.
    content = torch.load(last, weights_only=False)
    assert content["facts"].pop("resize") == "crop"
    for path in (last, tmp_path / "elsewhere.ckpt"):
        path.unlink()
        torch.save(content, path)
    assert seen(f"ckpt={last}", "data=shapes")
    assert seen("ckpt=elsewhere.ckpt", *data)
    assert not seen("ckpt=elsewhere.ckpt", "data=shapes")
