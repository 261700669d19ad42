"""ROAR and KAR from the command line, on images whose classes differ in one pixel alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from saliency_lab.cli.command import run
from saliency_lab.report.reading.records import read_records
from saliency_lab.tasks.retraining import retraining_directory
from saliency_lab.training.checkpoints import Checkpoints

OWN = '''
import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(192, num_classes)

    def forward(self, images):
        return self.fc(images.flatten(1) - 0.5)


def marked(model, images, targets, *, row=2, column=3, leaks=False, generator=None):
    """One pixel; where the class leaks, another one for images of class 1."""
    with open("asked.txt", "a") as file:
        print(*generator.sample_ids, file=file)
    maps = torch.zeros(len(images), 8, 8)
    maps[:, row, column] = 1
    if leaks:
        maps[targets == 1] = maps[targets == 1].transpose(1, 2)
    return maps
'''
CLASSIFIER = "outputs/train/arrays/linear"
DATA = (
    "--config-dir",
    "own",
    "data=arrays",
    "data.root=images",
    "data.batch_size=50",
    "logger=none",
)
TRAIN = ("model=linear", "optimizer.lr=0.05", "trainer.max_epochs=20", "trainer=cpu",
         "trainer.threads=1")  # fmt: skip
S = "evaluator.retraining"
EVALUATE = (
    "evaluate", *DATA, "trainer=cpu", "trainer.threads=1", "method=marked",
    "evaluator=[retraining]", f"{S}.fractions=[{1 / 64}]", f"{S}.fills=[mean]",
)  # fmt: skip

Command = Callable[..., int]


def code_of(patch: pytest.MonkeyPatch, *words: str) -> int:
    patch.setattr(sys, "argv", ["saliency-lab", *words])
    with pytest.raises(SystemExit) as stop:
        run()
    return int(stop.value.code or 0)


def write_images(folder: Path) -> None:
    """Faint noise; the pixel (2, 3) is white in images of class 1 and black in others.

    The pixels (6, 1) and (1, 6) are bright in all of them.
    """
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", 200), ("test", 200)):
        labels = np.arange(count) % 2
        pixels = rng.integers(112, 144, (count, 3, 8, 8), dtype=np.uint8)
        pixels[:, :, 6, 1] = pixels[:, :, 1, 6] = 230
        pixels[:, :, 2, 3] = 255 * labels[:, None]
        np.save(folder / f"{split}-images.npy", pixels)
        np.save(folder / f"{split}-labels.npy", labels)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images and a finished training."""
    place = tmp_path_factory.mktemp("workplace")
    write_images(place / "images")
    (place / "own_parts.py").write_text(OWN)
    for group, name, target in (("model", "linear", "Linear"), ("method", "marked", "marked")):
        (place / "own" / group).mkdir(parents=True)
        text = f"name: {name}\n_target_: own_parts.{target}\n"
        text += "row: 2\ncolumn: 3\nleaks: false\n" if group == "method" else ""
        (place / "own" / group / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        assert code_of(patch, "train", *DATA, *TRAIN) == 0
        yield place
    sys.modules.pop("own_parts", None)


@pytest.fixture
def command(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a task in the folder of the training and returns its exit code."""
    monkeypatch.chdir(workplace)
    (workplace / "asked.txt").unlink(missing_ok=True)
    return lambda *words: code_of(monkeypatch, *words)


def classifier() -> Path:
    (found,) = (path.parent for path in Path(CLASSIFIER).glob("seed-*/summary.json"))
    return found


def summary_below(root: str) -> tuple[Path, dict]:
    (path,) = Path(root).glob("evaluate/**/summary.json")
    (found,) = json.loads(path.read_text())["evaluators"].values()
    return path.parent, found


def accuracy_of(found: dict) -> dict[str, float]:
    return {
        mean["condition"]["order"]: mean["value"]
        for mean in found["means"]
        if mean["score"] == "correct"
    }


def test_the_pixel_that_is_all_is_needed_and_enough(command: Command) -> None:
    words = (*EVALUATE, f"ckpt={classifier()}", "output_root=needed")
    assert command(*words) == 0
    directory, found = summary_below("needed")
    accuracy = accuracy_of(found)
    assert 0.35 < accuracy["remove"] < 0.65  # all that is left is noise
    assert accuracy["keep"] == 1
    assert 0.35 < accuracy["mask"] < 0.65  # the same mask for every image
    better = {mean["condition"]["order"]: mean["better"] for mean in found["means"]}
    assert better == {"remove": "lower", "keep": "higher", "mask": None}
    (leak,) = found["facts"]["leakage"]
    assert leak["leaks"] is False
    assert leak["chance"] == 0.5

    # Each training is one of the train task's, tested on the same images as the evaluator's.
    trained = {
        (path.parent.parent.name, path.parent.name): json.loads(path.read_text())
        for path in classifier().glob("retraining/marked/*/original/*/seed-*/summary.json")
    }
    assert len(trained) == 6
    for row in found["facts"]["accuracies"]:
        key = (f"{row['order']}-{row['fill']}-{row['fraction']:g}", f"seed-{row['seed']}")
        assert trained[key]["status"] == "finished"
        assert trained[key]["epochs"] == 20
        assert trained[key]["test"]["accuracy"] == pytest.approx(row["accuracy"], abs=1e-9)
    assert not list(classifier().glob("retraining/**/images"))
    # The report shows the evaluation, not the trainings that it asked for.
    rows = pd.read_parquet(next(directory.glob("retraining*.parquet")))
    assert len(rows) == 3 * 2 * 200
    assert len(read_records(Path("outputs")).trainings) == 1

    assert command(*words, "overwrite=true") == 0
    assert len(set(Path("asked.txt").read_text().split())) == 400


def test_another_pixel_is_neither(command: Command) -> None:
    words = ("method.name=elsewhere", "method.row=6", "method.column=1", f"{S}.seeds=[0]",
             f"{S}.orders=[remove,keep]")  # fmt: skip
    assert command(*EVALUATE, *words, f"ckpt={classifier()}", "output_root=other") == 0
    accuracy = accuracy_of(summary_below("other")[1])
    assert accuracy["remove"] == 1
    assert 0.35 < accuracy["keep"] < 0.65


def test_a_mask_whose_place_tells_the_class_is_found_out(command: Command) -> None:
    words = ("method.name=leaking", "method.row=6", "method.column=1", "method.leaks=true",
             f"{S}.seeds=[0]")  # fmt: skip
    words += (f"{S}.orders=[keep,mask]", f"ckpt={classifier()}", "output_root=leaking")
    assert command(*EVALUATE, *words) == 0
    _, found = summary_below("leaking")
    (leak,) = found["facts"]["leakage"]
    assert leak["leaks"] is True
    assert leak["accuracy"] > 0.95
    # The kept pixels are the same in every image. What networks read from them is the mask.
    assert accuracy_of(found)["keep"] > 0.95


def test_a_killed_sweep_goes_on_where_it_was(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*EVALUATE, f"{S}.seeds=[5]", f"{S}.epochs=3")
    for copy in ("whole", "killed"):
        shutil.copytree(classifier(), copy, ignore=shutil.ignore_patterns("retraining"))
    assert command(*words, "ckpt=whole", "output_root=of_whole") == 0
    Path("asked.txt").unlink()

    epochs, saved = [], Checkpoints.on_train_epoch_end

    def noted(self, trainer, module):
        saved(self, trainer, module)
        epochs.append(self.directory)
        if len(epochs) == 5:  # the second epoch of the second training
            raise RuntimeError("killed")

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", noted)
    assert command(*words, "ckpt=killed", "output_root=of_killed") == 1
    finished = {path: path.stat().st_mtime_ns for path in Path("killed").rglob("last.ckpt")}
    explained = Path("asked.txt").read_text()
    assert len(set(explained.split())) == 400

    assert command(*words, "ckpt=killed", "output_root=of_killed") == 0
    assert len(epochs) == 9  # three trainings of three epochs, none of them twice
    first = epochs[0] / "last.ckpt"
    assert finished[first.relative_to(Path.cwd()) if first.is_absolute() else first] == (
        first.stat().st_mtime_ns
    )
    # Asked once more for the test images' maps by the evaluation's own loop, never for ranks.
    again = Path("asked.txt").read_text().removeprefix(explained).split()
    assert len(again) == 200
    assert not list(Path("killed").rglob("images"))
    keys = ["order", "index"]
    rows = {
        root: pd.read_parquet(next(summary_below(root)[0].glob("retraining*.parquet")))
        .sort_values(keys)
        .reset_index(drop=True)
        for root in ("of_whole", "of_killed")
    }
    pd.testing.assert_frame_equal(rows["of_whole"], rows["of_killed"])


def test_another_folder_of_images_has_retrainings_of_its_own() -> None:
    """Named data sets are the same wherever they lie; a person's own files are not."""
    config = {
        "classifier": {"sha256": "0" * 64, "directory": "here"}, "method": {"name": "marked"},
        "view": {"channels": "max", "competitors": None}, "engine": {}, "sources": {}, "seed": 42,
    }  # fmt: skip

    def place(name: str, root: str) -> Path:
        return retraining_directory(config, {"images": {"name": name, "root": root, "limit": 9}})

    for name in ("arrays", "folder", "pasted"):
        assert place(name, "/one") != place(name, "/other")
    assert place("cifar10", "/one") == place("cifar10", "/other")


def test_what_cannot_be_retrained_is_refused_in_one_line(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(classifier() / "checkpoints" / "last.ckpt", "alone.ckpt")
    shutil.copytree(classifier(), "damaged")
    Path("damaged", "config.yaml").write_text("data: [")
    home = f"ckpt={classifier()}"
    for more, message in (
        (("ckpt=damaged/checkpoints/last.ckpt",), "has no readable config.yaml"),
        (("ckpt=alone.ckpt",), "run directory of its training"),
        ((home, "split=train"), "Expected `split` to be test"),
        ((home, f"{S}.fills=[blur]"), f"{S}.fills"),
        ((home, f"{S}.fractions=[1.5]"), f"{S}.fractions"),
        ((home, f"{S}.seeds=[]"), f"{S}.seeds"),
    ):
        capfd.readouterr()
        assert command(*EVALUATE, *more, "output_root=refused") == 2
        printed = capfd.readouterr().err
        assert message in printed
        assert "Traceback" not in printed
    compared = [word for word in EVALUATE if not word.startswith(("evaluate", "method"))]
    capfd.readouterr()
    assert command("compare", *compared, home, "a=random_map", "b=sobel",
                   "output_root=refused", "condition=[remove,mean,0.015625]") == 2  # fmt: skip
    assert "Expected the task evaluate" in capfd.readouterr().err
