"""The tasks evaluate and explain as a person runs them, on a classifier trained for the purpose."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saliency_lab.cli.command import run
from saliency_lab.evaluation.rows.shards import Parts
from saliency_lab.inference.screening import Screen

TINY = [
    "data.train_images=120", "data.test_images=24", "trainer.max_epochs=2", "trainer.threads=1",
    "logger=none",
]  # fmt: skip
EVALUATED = "outputs/evaluate/shapes/basic_cnn"
KEYS = ["index", "view", "mode", "fill", "fraction"]

Command = Callable[..., int]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished training run."""
    place = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("SALIENCY_LAB_CACHE", str(place / "cache"))
        assert code_of(patch, "train", *TINY) == 0
    return place


@pytest.fixture
def command(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a task in the folder of the training run and returns its exit code."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(workplace / "cache"))
    return lambda *words: code_of(monkeypatch, *words)


def code_of(patch: pytest.MonkeyPatch, *words: str) -> int:
    patch.setattr(sys, "argv", ["saliency-lab", *words])
    with pytest.raises(SystemExit) as stop:
        run()
    return int(stop.value.code or 0)


def only_run(folder: str) -> Path:
    (found,) = (path.parent for path in Path(folder).glob("*/summary.json"))
    return found


def rows_of(directory: Path) -> pd.DataFrame:
    rows = pd.read_parquet(directory / "rows.parquet")
    for column in ("view", "mode", "fill", "method"):
        rows[column] = rows[column].astype(str)
    return rows.sort_values(KEYS).reset_index(drop=True)


def test_the_paper_in_one_pass_and_as_a_sweep_are_the_same_rows(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "method=paper", *TINY) == 0
    shown = capsys.readouterr().out
    together = only_run(f"{EVALUATED}/paper")
    assert f"wrote {together.absolute()}" in shown
    for name in ("rows.parquet", "areas.parquet", "curves.csv", "examples.npz", "config.yaml",
                 "environment.json", "figures/curves.png"):  # fmt: skip
        assert (together / name).stat().st_size > 0
    summary = json.loads((together / "summary.json").read_text())
    assert (summary["status"], summary["data"]["images"]) == ("finished", 24)
    assert len([row for row in summary["areas"] if row["score"] == "allegiance"]) == 6
    assert summary["cost"]["gradient/original+positive+negative+active+inactive"][
        "maps_backwards"
    ] == pytest.approx(10)

    names = ("original", "positive", "negative", "active", "inactive")
    assert command("evaluate", "-m", f"method={','.join(names)}", *TINY) == 0
    apart = pd.concat([rows_of(only_run(f"{EVALUATED}/{name}")) for name in names])
    apart = apart.sort_values(KEYS).reset_index(drop=True)
    whole = rows_of(together)
    exact = [name for name in whole if name not in ("probability", "logit")]
    pd.testing.assert_frame_equal(whole[exact], apart[exact])
    np.testing.assert_allclose(whole["logit"], apart["logit"], rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["evaluate", "train"]


def test_a_finished_run_is_shown_and_a_new_checkpoint_is_measured_anew(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", "method=positive", "data.limit=10", *TINY)
    assert command(*words) == 0
    directory = next(Path(EVALUATED).glob("positive/*limit-10*"))
    before = (directory / "rows.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert command(*words) == 0
    assert "finished already" in capsys.readouterr().out
    assert (directory / "rows.parquet").stat().st_mtime_ns == before
    assert command("train", *TINY, "overwrite=true", "data.augment=none") == 0
    summary = json.loads((directory / "summary.json").read_text())
    summary["checkpoint"]["sha256"] = "of an earlier training"
    (directory / "summary.json").write_text(json.dumps(summary))
    assert command(*words) == 0
    assert (directory / "rows.parquet").stat().st_mtime_ns > before


def test_a_killed_evaluation_goes_on_with_the_screen_that_it_had(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", "method=active", "evaluator.batch_size=8", "engine.screen=bf16",
             "engine.calibration=64", *TINY)  # fmt: skip
    write = Parts.write

    def killed(self: Parts, number: int, *rest: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, *rest)

    monkeypatch.setattr(Parts, "write", killed)
    assert command(*words) == 130
    (part,) = Path(EVALUATED).glob("active/*/parts/00000008-*.parquet")
    directory = part.parents[1]
    before = Parts(directory, 24, 8).meta(1)["engine"]["screen"]
    assert before["calibrated"]
    monkeypatch.setattr(Parts, "write", write)
    monkeypatch.setattr(Screen, "_both", None)  # a screen that calibrated anew would call it
    assert command(*words) == 0
    after = json.loads((directory / "summary.json").read_text())["engine"]["screen"]
    for name in ("active", "threshold", "compared", "agreement"):
        assert after[name] == before[name], name


def test_the_train_split_and_any_pair_can_be_measured(command: Command) -> None:
    assert command("evaluate", "method=active", "evaluator.split=train", "data.limit=10",
                   "evaluator.fills=[blur,shift-0.2]", "evaluator.modes=[deletion,insertion]",
                   "evaluator.protocol=standard", *TINY) == 0  # fmt: skip
    (directory,) = Path(EVALUATED).glob("active/*fills-blur*")
    rows = rows_of(directory)
    assert set(rows["fill"]) == {"blur", "shift-0.2"}
    assert set(rows["mode"]) == {"deletion", "insertion"}
    assert rows["fraction"].max() == 1
    assert rows["sample_id"].str.startswith("shapes/train").all()
    # Everything deleted is what insertion begins with.
    for (_, fill), group in rows.groupby(["sample_id", "fill"]):
        deleted = group[(group["mode"] == "deletion") & (group["fraction"] == 1)]
        bare = group[(group["mode"] == "insertion") & (group["fraction"] == 0)]
        assert deleted["prediction"].item() == bare["prediction"].item(), fill


def test_completeness_is_reported_per_image(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "method=integrated_gradients", "method.steps=4", "data.limit=10", *TINY]
    assert command(*words, "view=all") == 0
    (directory,) = Path(EVALUATED).glob("integrated_gradients-all/*steps-4*")
    table = pd.read_csv(directory / "completeness.csv")
    assert len(table) == table["sample_id"].nunique() == 10
    summary = json.loads((directory / "summary.json").read_text())["completeness"]
    assert summary["max_error"] == pytest.approx((table["total"] - table["change"]).abs().max())
    assert 0 < summary["mean_error"] < summary["mean_change"]
    assert "completeness: attributions miss their sum by" in capsys.readouterr().out


def test_without_a_trained_classifier_the_error_says_what_trains_it(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "method=active", "seed=7", *TINY) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: Expected a trained classifier")
    assert "python -m saliency_lab train seed=7 data.train_images=120" in line
    assert "method=active" not in line


def test_views_that_a_source_cannot_give_are_refused(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "method=grad_cam", "view=active", *TINY) == 2
    assert "`view`" in capsys.readouterr().err
    assert command("evaluate", "ckpt=nowhere.ckpt", *TINY) == 2
    assert "`ckpt`" in capsys.readouterr().err


def test_a_checkpoint_is_named_by_its_file_or_by_its_training(command: Command) -> None:
    (training,) = Path("outputs/train/shapes/basic_cnn").iterdir()
    last = training / "checkpoints" / "last.ckpt"
    tables = []
    for named, root in ((training, "one"), (last, "two")):
        words = ("seed=5", f"ckpt={named}", f"output_root={root}")
        assert command("explain", *TINY, *words) == 0
        tables.append(pd.read_csv(next(Path(root).rglob("explanations.csv"))))
    pd.testing.assert_frame_equal(*tables)


def test_explain_draws_one_right_image_of_each_class(command: Command) -> None:
    assert command("explain", *TINY) == 0
    directory = only_run("outputs/explain/shapes/basic_cnn/paper")
    table = pd.read_csv(directory / "explanations.csv")
    assert (table["label"] == table["predicted"]).all()
    assert table["label"].is_unique
    with np.load(directory / "maps.npz") as arrays:
        assert arrays["active"].shape == (len(table), *arrays["images"].shape[2:])
    assert (directory / "figures" / "grid.png").stat().st_size > 10_000


def test_explain_takes_a_persons_own_files_and_another_target(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("grey.png", "colour.jpg"):
        pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        (image.convert("L") if name == "grey.png" else image).save(tmp_path / name)
    files = f"images=[{tmp_path}/grey.png,{tmp_path}/colour.jpg]"
    assert command("explain", files, "target=star", *TINY) == 0
    (directory,) = Path("outputs/explain/shapes/basic_cnn/paper").glob("*+images-*")
    table = pd.read_csv(directory / "explanations.csv")
    assert table["explained"].tolist() == ["star", "star"]
    capsys.readouterr()
    assert command("explain", files, "target=starr", *TINY) == 2
    assert "Did you mean 'star'?" in capsys.readouterr().err
    (tmp_path / "text.jpg").write_text("no image")
    assert command("explain", f"images=[{tmp_path}/text.jpg]", *TINY) == 2
    assert "text.jpg" in capsys.readouterr().err
