"""Where a new user once met a traceback, a long wait or a wrong default."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saliency_lab.cli.logs import close_logs, configure_logging
from saliency_lab.errors import UserError
from saliency_lab.tasks.explain import image_files

ROOT = Path(__file__).parents[2]
SMALL = ("data.train_images=40", "data.test_images=20", "trainer=cpu", "logger=none")
OWN = """
def brightness(model, images, targets):
    return images.mean(1)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in a folder, with spaces and parentheses in their paths."""
    folder = tmp_path / "my photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a cat (1).png", "dog.JPG", "deep/fox.png", "._dog.png")):
        pixels = np.full((40, 50, 3), 60 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, format="PNG")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_files_folders_patterns_and_lists(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cat, dog, fox = (photos / name for name in ("a cat (1).png", "dog.JPG", "deep/fox.png"))
    assert image_files(str(cat)) == [cat]
    assert image_files([str(dog), str(cat), str(dog)]) == [dog, cat]
    assert image_files(str(photos)) == sorted([cat, fox, dog])
    assert image_files(f"{photos}/*.png") == [cat]
    assert image_files([f"{photos}/dog.*", f"{photos}/deep"]) == [dog, fox]
    monkeypatch.setenv("HOME", str(photos))
    assert image_files("~/dog.JPG") == [dog]
    # A name that looks like a pattern is a name first.
    odd = photos / "[1].png"
    odd.write_bytes(cat.read_bytes())
    assert image_files(str(odd)) == [odd]


@pytest.mark.parametrize("given", ["nowhere.jpg", "nowhere/*.jpg", 3, [3], {"a": "b"}])
def test_what_is_no_image_is_refused(given: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected `images`"):
        image_files(given)
    with pytest.raises(UserError, match="no image is at"):
        image_files(str(tmp_path))


def test_a_function_of_ones_own_in_files_without_a_name(
    command, tmp_path, photos, classifier_file, monkeypatch
):
    (tmp_path / "own_method.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for group, text in {
        "method": "_target_: own_method.brightness\n",
        "data": "_target_: saliency_lab.data.shapes.Shapes\ntrain_images: 40\ntest_images: 20\n",
    }.items():
        (tmp_path / "mine" / group).mkdir(parents=True)
        (tmp_path / "mine" / group / f"own_{group}.yaml").write_text(text)
    words = (
        "explain", "--config-dir", "mine", "method=own_method", "data=own_data", "trainer=cpu",
        "logger=none", f"ckpt={classifier_file}", "images=my photos",
    )  # fmt: skip
    outcome = command(*words, "target=star")
    assert outcome.code == 0, outcome.err
    assert "probability of explained" in outcome.out
    (found,) = tmp_path.glob("outputs/explain/own_data/*/own_method*/*/explanations.csv")
    table = pd.read_csv(found)
    assert len(table) == 3
    assert set(table["explained"]) == {"star"}
    (maps,) = tmp_path.glob("outputs/**/maps.npz")
    before = maps.read_bytes()

    mistyped = command(*words, "target=starr")
    assert mistyped.code == 2
    assert "Did you mean 'star'" in mistyped.err
    assert maps.read_bytes() == before
    # Nothing is left of what was refused, not even a log.
    assert list(maps.parents[1].parent.glob("*/*")) == [maps.parent]


def _module(*words: str) -> list[str]:
    return [sys.executable, "-m", "saliency_lab", *words]


@pytest.mark.parametrize("words", [("--help",), ("train", "--help")])
def test_a_reader_that_has_gone_is_no_fault(words, tmp_path):
    process = subprocess.Popen(
        _module(*words),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_root_that_is_not_there_is_told_before_torch_is_imported(tmp_path):
    code = (
        "import sys; sys.argv[1:] = ['train', 'data=folder', 'data.root=nowhere']\n"
        "from saliency_lab.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code == 2, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: Expected `data.root` to be an existing folder")
    assert not list(tmp_path.glob("outputs/*"))


STOPPED = ("callback=early_stopping", "callback.patience=2", "callback.min_delta=100")


def test_early_stopping_also_of_a_resumed_training(command, tmp_path):
    words = ("train", *SMALL, "trainer.max_epochs=9", *STOPPED)
    first = command(*words)
    assert first.code == 0, first.err
    assert "stopped early after epoch 3: train/loss has not improved on" in first.err
    (metrics,) = tmp_path.glob("outputs/**/metrics.csv")
    run = metrics.parent
    assert "callback-early_stopping" in run.name
    assert pd.read_csv(metrics)["epoch"].tolist() == [1, 2, 3]
    for name in ("last.ckpt", "best.ckpt"):
        assert (run / "checkpoints" / name).is_file()
    # Killed between the last checkpoint and the summary: no further epoch is trained.
    (run / "summary.json").unlink()
    assert command(*words).code == 0
    assert pd.read_csv(metrics)["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (("callback=early_stopping", "callback.monitor=val/loss"), ("`data.validation`", "0.0")),
        (("callback=early_stopping", "callback.patience=0"), ("`callback.patience`", "0")),
        (("+callback.mine._target_=builtins.dict",), ("`callback.mine._target_`", "dict")),
    ],
)
def test_callbacks_that_cannot_be(words, pieces, command, tmp_path):
    outcome = command("train", *SMALL, "trainer.max_epochs=1", *words)
    assert outcome.code == 2, outcome.err
    assert all(piece in outcome.err.splitlines()[-1] for piece in pieces)


def test_a_trial_lies_apart_and_its_classifier_is_found(command, tmp_path):
    words = ("trainer=debug", "data.train_images=90", "data.test_images=70", "data.batch_size=20")
    assert command("train", *words).code == 0
    (metrics,) = tmp_path.glob("outputs/**/metrics.csv")
    assert metrics.is_relative_to(tmp_path / "outputs" / "debug" / "train")
    assert len(pd.read_csv(metrics)) == 1
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["debug"]
    outcome = command("explain", *words, "target=star")
    assert outcome.code in (0, 2), outcome.err
    assert "none of" not in outcome.err
    assert "found none; train one" not in outcome.err


@pytest.mark.parametrize(
    "advice",
    [
        "The number of training batches (1) is smaller than the logging interval "
        "Trainer(log_every_n_steps=50). Set a lower value for log_every_n_steps if you want to "
        "see logs for the training epoch.",
        "quantized_resize_cpu_ does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True, warn_only=True)'.",
    ],
)
def test_advice_that_helps_nobody_is_not_shown(tmp_path, advice):
    with warnings.catch_warnings(record=True) as seen:
        configure_logging(tmp_path, "train")
        warnings.warn(advice, stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    close_logs()
    assert [str(one.message) for one in seen] == ["something else"]
