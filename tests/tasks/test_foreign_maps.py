"""`method=file`: maps that someone else made get the numbers that they would get from here."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import torch
import yaml

import saliency_lab as sl
from saliency_lab.data.shapes import Shapes
from saliency_lab.evaluation.rows.format import read_scores
from saliency_lab.models.checkpoint import load_classifier

DATA = ("data=shapes", "data.train_images=20", "data.test_images=12")


def test_the_numbers_are_those_of_the_method_that_made_the_maps(command, tmp_path, classifier_file):
    words = ("evaluate", *DATA, "trainer=cpu", "logger=none", f"ckpt={classifier_file}")
    words = (*words, "evaluator=[deletion,relevance_gain,complexity]", "resamples=20", "examples=2")
    model = load_classifier(classifier_file).network
    data = Shapes(train_images=20, test_images=12, name="shapes")
    data.setup("test")
    images = torch.from_numpy(data.images("test", range(12))).float() / 255
    found = sl.explain(model, images, "active", sample_ids=data.ids("test"))["active"]
    backwards = np.arange(12)[::-1]
    np.save(tmp_path / "maps.npy", found.numpy()[backwards])
    (tmp_path / "ids.txt").write_text("\n".join(data.ids("test")[at] for at in backwards))

    own = command(*words, "method=active")
    assert own.code == 0, own.err
    file = ("method=file", "method.maps=maps.npy", "method.ids=ids.txt", "method.name=theirs")
    foreign = command(*words, *file)
    assert foreign.code == 0, foreign.err
    assert "theirs" in foreign.out
    (here,) = tmp_path.glob("outputs/evaluate/shapes/*/active/*")
    (there,) = tmp_path.glob("outputs/evaluate/shapes/*/theirs-original/*")
    for label in ("deletion", "relevance_gain", "complexity"):
        mine, theirs = (read_scores(place, label).copy() for place in (here, there))
        if label == "deletion":
            theirs = theirs[theirs["fill"] == "black"]
        numbers = [name for name in mine if pd.api.types.is_float_dtype(mine[name])]
        assert numbers
        mine, theirs = (one.set_index("sample_id").sort_index() for one in (mine, theirs))
        np.testing.assert_allclose(mine[numbers], theirs[numbers], rtol=1e-3, atol=1e-5)

    # Under the usual name, too, which is that of an argument of numpy's.
    drawn = command("explain", *words[1:-3], *file[:-1], "data.limit=12", "trainer.threads=1")
    assert drawn.code == 0, drawn.err
    (place,) = tmp_path.glob("outputs/explain/**/maps.npz")
    with np.load(place) as arrays:
        assert set(arrays.files) == {"images", "ids", "file_map"}

    # Under the name of a method of the program they would be taken for its own.
    taken = command(*words, *file[:-1], "method.name=gradient")
    assert taken.code == 2
    assert "'gradient' is a method of this program" in taken.err

    # The content is the run's identity, wherever the file lies; another content is another run.
    again = tmp_path / "elsewhere.npy"
    again.write_bytes((tmp_path / "maps.npy").read_bytes())
    moved = ("method=file", f"method.maps={again}", "method.ids=ids.txt", "method.name=theirs")
    assert "already finished" in command(*words, *moved).out
    np.save(again, found.numpy())
    assert "already finished" not in command(*words, *moved).out
    assert len(list(tmp_path.glob("outputs/evaluate/shapes/*/theirs-original/*"))) == 2


def test_a_number_is_a_name(command, tmp_path, classifier_file):
    np.save(tmp_path / "maps.npy", np.random.default_rng(0).random((12, 32, 32)))
    words = (
        *DATA,
        "trainer=cpu",
        "logger.mode=offline",
        f"ckpt={classifier_file}",
        "method=file",
        "method.maps=maps.npy",
    )
    words = ("evaluate", *words, "method.name=2024", "resamples=20", "evaluator=deletion")
    outcome = command(*words, "evaluator.deletion.fills=[black]")
    assert outcome.code == 0, outcome.err
    (run,) = tmp_path.glob("outputs/evaluate/shapes/*/2024-original/*")
    assert json.loads((run / "summary.json").read_text())["method"] == "2024"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("name: '2024'", "name: 2024"))
    assert "already finished" in command(*words, "evaluator.deletion.fills=[black]").out
    assert command("report", "logger=none").code == 0
    table = pd.read_csv(tmp_path / "outputs/report/tables/scores.csv", dtype=str)
    assert set(table["map"]) == {"2024"}
    (tmp_path / "mine/method").mkdir(parents=True)
    (tmp_path / "mine/method/ours.yaml").write_text("defaults: [gradient, _self_]\nname: 2024\n")
    asked = ("compare", "--config-dir", "mine", "a=ours", "b=active", "--cfg", "job", "--resolve")
    shown = command(*asked)
    assert shown.code == 0, shown.err
    assert yaml.safe_load(shown.out)["methods"]["ours"]["method"]["name"] == "2024"


def test_what_would_have_to_be_computed_again_is_refused(command, tmp_path, classifier_file):
    np.save(tmp_path / "maps.npy", np.random.default_rng(0).random((12, 64, 64)))
    words = ("evaluate", *DATA, "trainer=cpu", "logger=none", f"ckpt={classifier_file}")
    file = ("method=file", "method.maps=maps.npy")
    for name in ("randomisation", "stability", "fragility", "max_sensitivity", "constant_shift"):
        outcome = command(*words, *file, f"evaluator={name}")
        assert outcome.code == 2
        (line,) = outcome.err.splitlines()[-1:]
        assert f"evaluator={name}" in line
        assert "only has the maps in its file" in line
    for wrong, said in (
        (("view=active",), "`view` to be original"),
        (("method.maps=nope.npy",), "there is none at 'nope.npy'"),
        (("method.maps=null",), "`method.maps` to be given"),
    ):
        outcome = command(*words, *file, *wrong)
        assert outcome.code == 2, outcome.err
        assert said in outcome.err.splitlines()[-1]
    assert not list(tmp_path.glob("outputs/evaluate"))
    refused = command(*words, *file, "data.test_images=11")
    assert refused.code == 2
    assert "for each of the 11 images" in refused.err
