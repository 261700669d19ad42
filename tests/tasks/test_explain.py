"""`explain`: several classes in one command, and maps laid over the images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saliency_lab.data.decoding import decoded
from saliency_lab.errors import UserError
from saliency_lab.explanation import explain
from saliency_lab.models.checkpoint import load_classifier
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
