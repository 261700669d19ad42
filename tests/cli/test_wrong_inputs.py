"""Mistakes of the user: one line that names the key and the value, exit code 2, nothing left."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# Small and quick where it is let through by mistake.
SMALL = ("data.train_images=40", "data.test_images=20", "trainer.max_epochs=1", "logger=none")
FOLDER = ("data=folder", "data.size=32", "trainer.max_epochs=1", "logger=none")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of class folders and a few files that are not what they should be."""
    noise = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "text.pt").write_text("these are no weights\n")
    (tmp_path / "text.safetensors").write_text("these are no weights\n")
    torch.save({"conv1.weight": torch.zeros(3, 4)}, tmp_path / "other.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    (tmp_path / "in_the_way").write_text("a file\n")
    (tmp_path / "configs" / "method").mkdir(parents=True)
    (tmp_path / "configs" / "method" / "own_broken.yaml").write_text("source: [1,\nviews: {")
    return tmp_path


CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # name: (words after `python -m saliency_lab`, pieces that the line must hold)
    "no task": (("model=resnet18",), ("TASK", "train", "model=resnet18")),
    "unknown task": (("trian",), ("TASK", "trian", "Did you mean 'train'")),
    "unknown model": (("train", "model=resnet81"), ("`model`", "resnet81", "resnet18")),
    "unknown data": (("train", "data=cifar"), ("`data`", "'cifar'", "cifar10")),
    "unknown experiment": (("train", "experiment=none_such"), ("`experiment`", "none_such")),
    "unknown experiment of a paper": (
        ("train", "experiment=llorente2023/none_such"),
        ("`experiment/llorente2023`", "cifar10_resnet18", "none_such"),
    ),
    "flag behind a setting": (
        ("evaluate", "method=own_broken", "--config-dir", "configs", *SMALL),
        ("configuration file", "own_broken.yaml"),
    ),
    "no evaluator": (("evaluate", "evaluator=[]"), ("`evaluator` to be given",)),
    "a setting of another task": (("report", "method=active"), ("Unknown key `method`", "runs")),
    "a word alone": (("report", "nothing"), ("KEY=VALUE", "'nothing'")),
    "a list of unquoted texts": (
        ("reproduce", "overrides=[trainer.threads=2,logger=none]"),
        ("""'overrides=["trainer.threads=2","logger=none"]'""",),
    ),
    "no run": (("evaluate", "run=", *SMALL), ("`run`", "but got ''")),
    "no images of a class": (("explain", "per_class=0", *SMALL), ("`per_class`", "0")),
    "no runs": (("report", "runs=[]"), ("`runs`", "[]")),
    "no output root": (("train", "output_root=", *SMALL), ("`output_root`", "empty")),
    "a text with a comma": (
        ("train", "data.root=a b, c"),
        ("""'data.root="a b, c"'""", "several jobs want -m"),
    ),
    "a text with brackets": (
        ("train", "data.root=a(b)"),
        ("""'data.root="a(b)"'""", "KEY=[a,b]"),
    ),
    "a text with an apostrophe": (
        ("train", "data.root=it's"),
        ("""'data.root="it'"'"'s"'""", "KEY=[a,b]"),
    ),
    "unknown kind": (
        ("compare", "a=gradient", "b=sobel", "kind=foo", *SMALL),
        ("`kind`", "betting", "foo"),
    ),
    "unknown map": (("compare", "a=gradient", "b=none_such", *SMALL), ("`b`", "none_such")),
    "seed of a reproduction": (("reproduce", "seed=3"), ("seeds=[3]",)),
    "unknown key of a reproduction's job": (
        ("reproduce", "columns=[cifar10_basic_cnn]", 'overrides=["trainer.thread=1"]'),
        ("saliency_lab train", "trainer.thread=1", "Key 'thread'"),
    ),
    "unknown trainer": (("train", "trainer=tpu"), ("`trainer`", "tpu", "cpu")),
    "unknown key": (("train", "foo=1"), ("`foo`", "output_root", "seed")),
    "unknown key, close": (("train", "sead=1"), ("`sead`", "Did you mean 'seed'")),
    "unknown nested key": (("train", "model.foo=1"), ("`model.foo`", "pretrained")),
    "unknown nested key of another model": (
        ("train", "model=resnet18", "model.pretraned=true"),
        ("`model.pretraned`", "Did you mean 'pretrained'"),
    ),
    "one of a list": (
        ("evaluate", "evaluator=[deletion,relevence_gain]"),
        ("`evaluator`", "relevence_gain", "Did you mean 'relevance_gain'"),
    ),
    "no list": (("report", "runs=somewhere"), ("`runs` to be a list",)),
    "a key that one job of a sweep lacks": (
        ("evaluate", "-m", "method=smoothgrad,original", "method.samples=4", *SMALL),
        ("`method.samples`", "with method=original", "no job of the sweep was begun"),
    ),
    "a key that no job of a sweep has": (
        ("evaluate", "-m", "method=glob(s*)", "seed=0,1", "sead=4", *SMALL),
        ("`sead`", "Did you mean 'seed'?"),
    ),
    "unknown group": (("train", "modle=resnet18"), ("`modle`", "Did you mean 'model'")),
    "added key": (("train", "+model.foo=1"), ("`model.foo`", "pretrained")),
    "added data key": (("train", "+data.colour=red"), ("`data.colour`", "batch_size")),
    "deleted key": (("train", "~data.name"), ("`data.name`",)),
    "text for a number": (("train", "seed=abc"), ("`seed`", "abc", "an integer")),
    "text for a flag": (("train", "overwrite=maybe"), ("`overwrite`", "maybe", "true or false")),
    "text for a nested number": (("train", "data.batch_size=many"), ("`data.batch_size`", "many")),
    "scalar for a group": (("train", "optimizer.betas=3"), ("`optimizer.betas`", "3")),
    "batch size zero": (("train", "data.batch_size=0"), ("`data.batch_size`", "0", "greater")),
    "negative rate": (("train", "optimizer.lr=-1"), ("`optimizer.lr`", "-1", "greater")),
    "no epochs": (("train", "trainer.max_epochs=0"), ("`trainer.max_epochs`", "0")),
    "no devices": (("train", "trainer.devices=0"), ("`trainer.devices`", "0")),
    "negative seed": (("train", "seed=-1", *SMALL), ("`seed` to be at least 0", "-1")),
    "unknown precision": (("train", "trainer.precision=16"), ("`trainer.precision`", "16-mixed")),
    "unknown accelerator": (
        ("train", "trainer.accelerator=tpu"),
        ("`trainer.accelerator`", "auto, cpu, gpu", "tpu"),
    ),
    "unknown augmentation": (
        ("train", "data.augment=basics"),
        ("`data.augment`", "Did you mean 'basic'"),
    ),
    "bad override": (("train", "model=[resnet18"), ("model=[resnet18",)),
    "override without a value": (("train", "resnet18"), ("resnet18",)),
    "missing root": (
        ("train", *FOLDER, "data.root=nowhere"),
        ("data.root", "nowhere"),
    ),
    "no root": (("train", *FOLDER), ("data.root",)),
    "empty class folder": (
        ("train", *FOLDER, "data.root=pets", "+empty=fox"),
        ("fox",),
    ),
    "truncated image": (
        ("train", *FOLDER, "data.root=pets", "+truncate=1"),
        ("train/cat/1.png", "data.on_corrupt=skip"),
    ),
    "unknown class": (
        ("train", *FOLDER, "data.root=pets", "data.classes=[cat,dgo]"),
        ("data.classes", "dgo", "dog"),
    ),
    "class named twice": (
        ("train", *SMALL, "data.classes=[circle,circle]"),
        ("data.classes", "circle"),
    ),
    "limit below the classes": (("train", *SMALL, "data.limit=0"), ("`data.limit`", "0")),
    "unknown architecture": (
        ("train", *SMALL, "model=timm", "model.name=resnet18x"),
        ("`model.name`", "resnet18x", "Did you mean resnet18"),
    ),
    "architecture not named": (("train", *SMALL, "model=timm"), ("model.name",)),
    "unknown tag": (("train", *SMALL, "model=resnet18", "model.tag=x"), ("`model.tag`", "tv_in1k")),
    "pretrained without a network": (
        ("train", *SMALL, "model=resnet18", "model.pretrained=true"),
        ("model.pretrained", "resnet18.tv_in1k", "model.weights=FILE"),
    ),
    "no published weights": (
        ("train", *SMALL, "model.pretrained=true"),
        ("model.pretrained", "basic_cnn"),
    ),
    "start of a network that leaves no choice": (
        ("train", *SMALL, "model.zero_init_last=false"),
        ("`model.zero_init_last`", "basic_cnn", "ResNets"),
    ),
    "missing weights": (
        ("train", *SMALL, "model.weights=none.pt"),
        ("`model.weights`", "none.pt"),
    ),
    "text in a weights file": (
        ("train", *SMALL, "model.weights=text.pt"),
        ("`model.weights`", "text.pt"),
    ),
    "text in a safetensors file": (
        ("train", *SMALL, "model.weights=text.safetensors"),
        ("`model.weights`", "text.safetensors"),
    ),
    "weights of another model": (
        ("train", *SMALL, "model.weights=other.pt"),
        ("`model.weights`", "BasicCNN", "other.pt", "22 missing", "1 unknown"),
    ),
    "weights file without names": (
        ("train", *SMALL, "model.weights=list.pt"),
        ("`model.weights`", "list.pt", "list"),
    ),
    "target that is nowhere": (
        ("train", *SMALL, "model._target_=nowhere.model"),
        ("`model._target_`", "nowhere.model"),
    ),
    "output under a file": (
        ("train", *SMALL, "output_root=in_the_way"),
        ("output_root", "in_the_way"),
    ),
    "output that cannot be made": (("train", *SMALL, "output_root=/proc/runs"), ("output_root",)),
    "unknown config directory": (("train", "--config-dir", "nowhere"), ("nowhere",)),
    "unknown flag": (("train", "--epochs", "3"), ("--epochs",)),
    "bad value of a flag": (("train", "--cfg", "jobs"), ("--cfg", "jobs")),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_code_2(name, command, place):
    words, pieces = CASES[name]
    for word in [word for word in words if word.startswith(("+empty=", "+truncate="))]:
        words = tuple(kept for kept in words if kept != word)
        if word.startswith("+empty="):
            for split in ("train", "test"):
                (place / "pets" / split / word.removeprefix("+empty=")).mkdir()
        else:
            image = place / "pets" / "train" / "cat" / "1.png"
            image.write_bytes(image.read_bytes()[:200])
    outcome = command(*words)
    # What was said of the way there is no part of the error.
    lines = [line for line in outcome.err.splitlines() if not line.startswith("decoding ")]
    with open(os.environ.get("SALIENCY_LAB_WRONG_INPUTS", os.devnull), "a") as record:
        record.write(f"$ {' '.join(words)}\n{outcome.err.strip()}\nexit code {outcome.code}\n\n")
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    for piece in pieces:
        assert piece in lines[0]
    assert not list(place.glob("outputs/*/*")), "a refused job left something behind"
