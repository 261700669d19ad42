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
import yaml
from PIL import Image

from saliency_lab.cli.command import run
from saliency_lab.evaluation.rows.shards import Shards
from saliency_lab.inference.screening import Screen
from saliency_lab.report.reading.inventory import found_runs

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


def trained_on_all() -> Path:
    """The training of the fixture, beside which tests may leave others with a limit."""
    found = Path("outputs/train/shapes/basic_cnn").glob("seed-42*epochs-2")
    (training,) = (path for path in found if "limit" not in path.name)
    return training


def rows_of(directory: Path) -> pd.DataFrame:
    rows = pd.read_parquet(directory / "deletion.parquet")
    for column in ("view", "mode", "fill", "method"):
        rows[column] = rows[column].astype(str)
    return rows.sort_values(KEYS).reset_index(drop=True)


def test_the_paper_in_one_pass_and_as_a_sweep_are_the_same_rows(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "method=paper", *TINY) == 0
    shown = capsys.readouterr().out
    together = only_run(f"{EVALUATED}/all")
    assert f"wrote {together.absolute()}" in shown
    files = {path.relative_to(together).as_posix() for path in together.rglob("*")
             if path.is_file()}  # fmt: skip
    assert files == {
        "deletion.parquet", "scores/deletion.parquet", "deletion-curves.csv", "examples.npz",
        "config.yaml", "environment.json", "figures/deletion-curves.png", "summary.json", ".lock",
        "evaluate.log",
    }  # fmt: skip
    summary = json.loads((together / "summary.json").read_text())
    assert (summary["status"], summary["data"]["images"]) == ("finished", 24)
    found = summary["evaluators"]["deletion"]
    assert len([row for row in found["means"] if row["score"] == "allegiance"]) == 6
    assert found["cost"]["maps_backwards"] == pytest.approx(10)

    names = ("original", "positive", "negative", "active", "inactive")
    assert command("evaluate", "-m", f"method={','.join(names)}", *TINY) == 0
    apart = pd.concat([rows_of(only_run(f"{EVALUATED}/{name}")) for name in names])
    apart = apart.sort_values(KEYS).reset_index(drop=True)
    whole = rows_of(together)
    exact = [name for name in whole if name not in ("probability", "logit")]
    pd.testing.assert_frame_equal(whole[exact], apart[exact])
    np.testing.assert_allclose(whole["logit"], apart["logit"], rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["evaluate", "train"]


def test_a_finished_run_is_shown_and_another_checkpoint_is_another_run(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", "method=positive", "data.limit=10", *TINY)
    assert command(*words) == 0
    (directory,) = Path(EVALUATED).glob("positive/*limit-10*")
    before = (directory / "deletion.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert command(*words) == 0
    assert "already finished" in capsys.readouterr().out
    assert (directory / "deletion.parquet").stat().st_mtime_ns == before
    # What it kept of its images does not make another run, and is said.
    assert command(*words, "examples=3", "maps=keep") == 0
    assert "already finished with examples=50 maps=discard; pass" in capsys.readouterr().out
    # A training with a limit of its own does not become the classifier of limited evaluations.
    assert command("train", *TINY, "data.limit=10") == 0
    assert command(*words) == 0
    assert "already finished" in capsys.readouterr().out
    (limited,) = Path("outputs/train/shapes/basic_cnn").glob("*limit-10*")
    assert command(*words, f"ckpt={limited}") == 0
    assert len(list(Path(EVALUATED).glob("positive/*limit-10*"))) == 2
    assert (directory / "deletion.parquet").stat().st_mtime_ns == before


def test_the_accuracy_is_that_of_the_intact_images(command: Command) -> None:
    found = set()
    for settings in (["evaluator.modes=[insertion]"], ["evaluator.modes=[insertion,deletion]"],
                     ["evaluator.fractions=[0.3,0.9]"], []):  # fmt: skip
        assert command("evaluate", "method=negative", *settings, *TINY) == 0
        (directory,) = Path(EVALUATED).glob("negative/*")
        found.add(json.loads((directory / "summary.json").read_text())["accuracy"]["value"])
    training = trained_on_all()
    tested = json.loads((training / "summary.json").read_text())["test"]["accuracy"]
    assert [round(value, 6) for value in found] == [round(tested, 6)]
    # One directory, since the maps are the same; an entry and a file for each evaluator's settings.
    assert len(list(directory.glob("*.parquet"))) == 4


def test_the_checkpoint_says_which_model_it_is(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    training = trained_on_all()
    assert command("evaluate", "model=resnet18", f"ckpt={training}", *TINY) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "`model.name` is 'basic_cnn', but got 'resnet18'" in line
    assert not Path("outputs/evaluate/shapes/resnet18").exists()


def test_kept_maps_serve_a_second_evaluator(command: Command) -> None:
    words = ("evaluate", "method=smoothgrad", "method.samples=3", "view=all", "maps=keep", *TINY)
    assert command(*words) == 0
    (directory,) = Path(EVALUATED).glob("smoothgrad-all/*")
    assert len(list((directory / "maps").iterdir())) == 1
    assert command(*words, "evaluator.protocol=standard") == 0
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["checkpoint"]["epoch"] == 2
    entries = summary["evaluators"]
    assert entries["deletion"]["cost"]["maps_backwards"] == 30  # 3 samples, 10 classes
    assert entries["deletion+protocol-standard"]["cost"]["maps_backwards"] == 0
    assert entries["deletion+protocol-standard"]["cost"]["maps_forwards"] == 0
    training = trained_on_all()
    without = [word for word in words if word != "maps=keep"]
    words = (*without, "evaluator.protocol=standard", f"ckpt={training}", "output_root=fresh")
    assert command(*words) == 0
    (again,) = Path("fresh").glob("evaluate/*/*/*/*/deletion*.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(again), pd.read_parquet(directory / again.name))


@pytest.mark.parametrize("later", [2, 7])
def test_examples_of_all_evaluators_are_of_the_same_images(
    command: Command, capsys: pytest.CaptureFixture[str], later: int
) -> None:
    words = ("evaluate", "method=active", "data.limit=22", *TINY)
    assert command(*words, "examples=4", "overwrite=true") == 0
    assert command(*words, "evaluator=relevance_gain", f"examples={later}") == 0
    assert "keeping examples=4, as this run began" in capsys.readouterr().err
    (directory,) = Path(EVALUATED).glob("active/*limit-22*")
    with np.load(directory / "examples.npz") as arrays:
        assert {len(arrays[name]) for name in arrays.files} == {4}
        levels, active = arrays["deletion|levels:active"], arrays["map:gradient/active"]
        for level, one in zip(levels, active, strict=True):
            assert (level[one == 0] > level[one > 0].max()).all()  # 0 is deleted last, if at all
    assert command("report") == 0


def test_a_killed_evaluation_goes_on_with_the_screen_that_it_had(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", "method=active", "evaluator.batch_size=8", "engine.screen=bf16",
             "engine.calibration=64", *TINY)  # fmt: skip
    write = Shards.write

    def killed(self: Shards, number: int, *rest: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, *rest)

    monkeypatch.setattr(Shards, "write", killed)
    assert command(*words) == 130
    (part,) = Path(EVALUATED).glob("active/*/shards/maps/00000008-*.parquet")
    directory = part.parents[2]
    before = Shards(directory / "shards" / "maps", 24, 8).meta(1)["engine"]["screen"]
    assert before["calibrated"]
    monkeypatch.setattr(Shards, "write", write)
    monkeypatch.setattr(Screen, "_both", None)  # a screen that calibrated anew would call it
    assert command(*words) == 0
    after = json.loads((directory / "summary.json").read_text())["engine"]["screen"]
    for name in ("active", "threshold", "compared", "agreement"):
        assert after[name] == before[name], name


def test_what_a_killed_evaluation_took_is_part_of_its_seconds(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", "method=active", "block_size=8", "data.limit=23", *TINY)
    write = Shards.write

    def killed(self: Shards, number: int, rows: pd.DataFrame, meta: Any, *rest: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        for stage, seconds in {"deletion": 1000.0, "maps": 10_000.0}.items():
            meta["cost"].setdefault(stage, {})["seconds"] = seconds
        write(self, number, rows, meta, *rest)

    monkeypatch.setattr(Shards, "write", killed)
    assert command(*words) == 130
    (part,) = Path(EVALUATED).glob("active/*limit-23*/shards/maps/00000008-*.parquet")
    monkeypatch.setattr(Shards, "write", write)
    assert command(*words) == 0
    summary = part.parents[2] / "summary.json"
    assert 22_000 < json.loads(summary.read_text())["seconds"] < 22_900


def test_the_train_split_and_any_pair_can_be_measured(command: Command) -> None:
    assert command("evaluate", "method=active", "evaluator.split=train", "data.limit=10",
                   "evaluator.fills=[blur,shift-0.2]", "evaluator.modes=[deletion,insertion]",
                   "evaluator.protocol=standard", *TINY) == 0  # fmt: skip
    (table,) = Path(EVALUATED).glob("active/*split-train*/deletion*.parquet")
    rows = pd.read_parquet(table)
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
    assert "completeness error: mean" in capsys.readouterr().out


def test_the_error_and_rounds_of_an_adaptive_method_are_reported_per_image(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "method=adaptive", "method.base.samples=2", "method.error=0.5",
             "data.limit=10", "maps=keep", *TINY]  # fmt: skip
    assert command(*words, "view=all", "method.most=6") == 0
    (directory,) = Path(EVALUATED).glob("adaptive-all/*most-6*")
    table = pd.read_csv(directory / "estimate.csv")
    assert table["sample_id"].nunique() == len(table) == 10
    assert table["rounds"].between(4, 6).all()
    assert ((table["error"] <= 0.5) | (table["rounds"] == 6)).all()
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["estimate"]["asked"] == 0.5
    assert summary["estimate"]["max_error"] == pytest.approx(table["error"].max())
    assert summary["estimate"]["mean_rounds"] == pytest.approx(table["rounds"].mean())
    assert "standard error of the maps: median" in capsys.readouterr().out
    # From the kept maps, for a further evaluator, it is the same.
    assert command(*words, "view=all", "method.most=6", "evaluator=[complexity]") == 0
    pd.testing.assert_frame_equal(pd.read_csv(directory / "estimate.csv"), table)

    capsys.readouterr()
    assert command(*words, "method.error=0.001", "method.most=5") == 0
    said = capsys.readouterr().out
    assert "warning: 10 of 10 images miss the error asked for, 0.001, after 5 rounds" in said


def test_without_a_trained_classifier_the_error_says_what_trains_it(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "method=active", "seed=7", *TINY) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: Expected a trained classifier")
    assert "python -m saliency_lab train seed=7 data.train_images=120" in line
    assert "method=active" not in line


@pytest.mark.parametrize(
    ("words", "training"),
    [
        ("evaluate data.seed=3 method=active", "train data.seed=3 data.train_images=120"),
        ("compare seed=8 a=active b=original least=5", "train seed=8 data.train_images=120"),
        ("explain seed=8 method=active", "train seed=8 data.train_images=120"),
    ],
)
def test_what_is_said_to_train_it_is_all_that_was_said_of_the_training(
    command: Command, capsys: pytest.CaptureFixture[str], words: str, training: str
) -> None:
    assert command(*words.split(), *TINY) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"python -m saliency_lab {training}" in line
    assert not {"method=active", "a=active", "b=original", "least=5"} & set(line.split())


def test_views_that_a_source_cannot_give_are_refused(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "method=grad_cam", "view=active", *TINY) == 2
    assert "`view`" in capsys.readouterr().err
    assert command("evaluate", "ckpt=nowhere.ckpt", *TINY) == 2
    assert "`ckpt`" in capsys.readouterr().err


def test_a_checkpoint_is_named_by_its_file_or_by_its_training(command: Command) -> None:
    training = trained_on_all()
    last = training / "checkpoints" / "last.ckpt"
    tables = []
    for named, root in ((training, "one"), (last, "two")):
        words = ("seed=5", f"ckpt={named}", f"output_root={root}")
        assert command("explain", *TINY, *words) == 0
        tables.append(pd.read_csv(next(Path(root).rglob("explanations.csv"))))
    pd.testing.assert_frame_equal(*tables)


def test_explain_draws_one_right_image_of_each_class(command: Command) -> None:
    assert command("explain", *TINY) == 0
    directory = only_run("outputs/explain/shapes/basic_cnn/all")
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
    (directory,) = Path("outputs/explain/shapes/basic_cnn/all").glob("*+images-*")
    table = pd.read_csv(directory / "explanations.csv")
    assert table["explained"].tolist() == ["star", "star"]
    capsys.readouterr()
    assert command("explain", files, "target=starr", *TINY) == 2
    assert "Did you mean 'star'?" in capsys.readouterr().err
    (tmp_path / "text.jpg").write_text("no image")
    assert command("explain", f"images=[{tmp_path}/text.jpg]", *TINY) == 2
    assert "text.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("anew", [(), ("overwrite=true",)])
def test_a_refused_evaluator_leaves_a_finished_run_as_it_was(
    anew: tuple[str, ...], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", "method=positive", "data.limit=5", *TINY)
    assert command(*words) == 0
    (directory,) = Path(EVALUATED).glob("positive/*limit-5*")
    before = (directory / "config.yaml").read_text()
    assert command(*words, "evaluator=exact_truth", *anew) == 2
    assert "sum over patches" in capsys.readouterr().err
    assert (directory / "config.yaml").read_text() == before
    assert not (directory / "error.txt").exists()
    states = {run.path.resolve(): run.state for run in found_runs(Path("outputs"))}
    assert states[directory.resolve()] == "finished"
    assert command(*words) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_training_says_what_need_not_be_repeated(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    training = trained_on_all()
    words = ("method=negative", "data.limit=6", "logger=none", "trainer.threads=1")
    assert command("evaluate", f"run={training}", *words) == 0
    named = capsys.readouterr().out.rpartition("wrote ")[2].strip()
    assert command("evaluate", *TINY, *words) == 0
    shown = capsys.readouterr().out
    assert f"already finished; pass overwrite=true to rerun: {named}" in shown
    config = yaml.safe_load((Path(named) / "config.yaml").read_text())
    assert (config["trainer"]["max_epochs"], config["data"]["test_images"]) == (2, 24)
    # Whatever contradicts the training is refused.
    for word in ("data=cifar10", "model=resnet18", "trainer.max_epochs=3", "data.test_images=9"):
        assert command("evaluate", f"run={training}", *words, word) == 2
        told = capsys.readouterr().err
        assert "leave it out, it comes from `run`" in told, told
        assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("evaluate", "method=occlusion", "method.window=1", "method.stride=2"),
            "Expected `method.stride` to be at most `method.window`, 1 pixel here",
        ),
        (("explain", "method=occlusion", "method.window=40"), "Expected `method.window` to be"),
        (("explain", "method=grad_cam", "method.layer=x"), "`method.layer`"),
        (
            (
                "evaluate", "evaluator=infidelity", "evaluator.infidelity.perturbation=square",
                "evaluator.infidelity.size=0.99",
            ),
            "Expected `evaluator.infidelity.size` to leave the square a choice",
        ),
        (
            (
                "compare", "a=active", "b=original", "evaluator=infidelity",
                "evaluator.infidelity.perturbation=square",
                "evaluator.infidelity.size=0.99",
            ),
            "Expected `evaluator.infidelity.size` to leave the square a choice",
        ),
    ],
)  # fmt: skip
def test_what_a_function_refuses_is_named_as_the_command_line_names_it(
    command: Command, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert command(*words, *TINY) == 2
    told = capfd.readouterr().err
    assert said in told
    assert "Traceback" not in told
