"""`runs`: what run directories there are, what they are, and removing them."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from saliency_lab.report.reading.inventory import found_runs
from saliency_lab.runs.directory import held
from saliency_lab.tasks.runs import age_text, size_text

TRAIN = "train/shapes/basic_cnn/seed-42"
OTHER = "train/cifar10/resnet18/seed-1"
EVALUATE = "evaluate/shapes/basic_cnn/active/seed-42+classifier-0123456789"


def written(
    root: Path,
    name: str,
    summary: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A run directory with the small files that the listing reads."""
    directory = root / name
    directory.mkdir(parents=True)
    task, data, model, *_ = name.split("/")
    known = {"task": task, "seed": 42, "data": {"name": data}, "model": {"name": model}, **config}
    (directory / "config.yaml").write_text(yaml.safe_dump(known))
    (directory / "summary.json").write_text(json.dumps(summary or {"status": "running"}))
    return directory


def mean(value: float, view: str) -> dict[str, Any]:
    return {
        "method": "gradient", "view": view, "condition": {"fill": "black"}, "score": "allegiance",
        "better": "lower", "value": value, "low": value - 0.01, "high": value + 0.01, "images": 9,
    }  # fmt: skip


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    training = written(
        root, TRAIN, {"status": "finished", "test": {"accuracy": {"value": 0.75}}},
        optimizer={"lr": 0.1}, trainer={"max_epochs": 3},
    )  # fmt: skip
    (training / "checkpoints").mkdir()
    (training / "checkpoints/last.ckpt").write_bytes(bytes(5_000_000))
    # A run's own folders are no runs.
    (training / "wandb/run").mkdir(parents=True)
    (training / "wandb/run/config.yaml").write_text("{}")
    failed = written(root, OTHER, seed=1, optimizer={"lr": 0.2}, scheduler={"name": "cosine"})
    (failed / "error.txt").write_text("UserError: no such file\n")
    other_score = {**mean(9.0, "active"), "score": "logit"}
    written(
        root, EVALUATE,
        {"status": "finished", "evaluators": {"deletion+x": {
            "name": "deletion", "scores": [{"name": "allegiance"}, {"name": "logit"}],
            "means": [mean(0.25, "active"), mean(0.125, "positive"), other_score],
        }}},
        method={"name": "gradient"}, view={"names": ["active"]},
        classifier={"directory": str(training.absolute())},
    )  # fmt: skip
    return root


def rows(text: str) -> list[list[str]]:
    """The cells of the printed table, by two spaces or more."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()]
            for line in text.splitlines()[3:]]  # fmt: skip


def test_the_table(outputs: Path, command) -> None:
    outcome = command("runs")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0] == "3 runs below 'outputs', 5.0 MB"
    evaluation, failed, training = rows(outcome.out)
    assert evaluation[:6] == ["evaluate", "shapes", "basic_cnn", "active", "42", "finished"]
    assert evaluation[6] == "deletion 0.1250 … 0.2500"
    assert evaluation[-1] == EVALUATE
    assert failed[:5] == ["train", "cifar10", "resnet18", "1", "failed"]
    assert training[4:6] == ["finished", "accuracy 0.7500"]
    assert training[-2:] == ["5.0 MB", TRAIN]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["task=evaluate"], {EVALUATE}),
        (["model=res*"], {OTHER}),
        (["seed=1,42", "task=[train]"], {OTHER, TRAIN}),
        (["state=finished", "data=shapes"], {EVALUATE, TRAIN}),
        (["method=active"], {EVALUATE}),
        (["model=vgg16"], set()),
    ],
)
def test_filters(words: list[str], names: set[str], outputs: Path, command) -> None:
    outcome = command("runs", *words)
    assert outcome.code == 0
    assert outcome.out.startswith(f"{len(names)} of 3 runs")
    assert {row[-1] for row in rows(outcome.out)} == names


def test_one_is_shown(outputs: Path, command) -> None:
    outcome = command("runs", f"show={outputs / EVALUATE}")
    assert outcome.code == 0
    assert str(outputs / TRAIN) in outcome.out
    (positive,) = (line for line in outcome.out.splitlines() if "gradient/positive" in line)
    assert positive.split() == [
        "gradient/positive", "black", "0.1250", "[0.1150,", "0.1350]", "9",
    ]  # fmt: skip
    shown = command("runs", f"show={OTHER}").out
    assert "UserError: no such file" in shown
    assert "rerun the same command to resume it" in shown
    assert f"used by {EVALUATE}" in " ".join(command("runs", f"show={TRAIN}").out.split())


def test_keys_that_differ(outputs: Path, command) -> None:
    outcome = command("runs", f"compare=[{TRAIN},{OTHER}]")
    assert outcome.code == 0
    found = {row[0]: row[1:] for row in rows("\n".join(outcome.out.splitlines()[2:]))}
    assert found == {
        "data.name": ["shapes", "cifar10"],
        "model.name": ["basic_cnn", "resnet18"],
        "seed": ["42", "1"],
        "optimizer.lr": ["0.1", "0.2"],
        "trainer.max_epochs": ["3", "–"],
        "scheduler.name": ["–", "cosine"],
    }
    assert "are the same" not in outcome.out
    assert command("runs", f"compare={TRAIN}").code == 2


def test_removal_asks_first(outputs: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    refused = command("runs", f"remove={TRAIN}")
    assert refused.code == 0
    assert "Remove 1 run, 5.0 MB? [y/N]" in refused.out
    assert "1 other run used these classifiers" in refused.out
    assert "nothing was removed" in refused.out
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    unanswered = command("runs", f"remove={TRAIN}")
    assert unanswered.code == 2
    assert "pass yes=true" in unanswered.err
    assert (outputs / TRAIN / "checkpoints/last.ckpt").is_file()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert command("runs", f"remove={TRAIN}").code == 0
    assert not (outputs / "train/shapes").exists()
    assert (outputs / OTHER).is_dir()


def test_all_that_a_pattern_means(outputs: Path, command) -> None:
    assert command("runs", "remove=*", "yes=true").code == 0
    assert list(outputs.iterdir()) == []


def test_only_what_fits_is_removed_or_shown(outputs: Path, command) -> None:
    removed = command("runs", "task=evaluate", "remove=*", "yes=true")
    assert removed.code == 0, removed.err
    assert (outputs / TRAIN).is_dir()
    assert (outputs / OTHER).is_dir()
    assert not (outputs / EVALUATE).exists()
    shown = command("runs", "seed=1", "show=*")
    assert OTHER in shown.out
    assert TRAIN not in shown.out
    assert command("runs", "task=evaluate", f"show={TRAIN}").code == 2


def test_what_runs_is_not_removed(outputs: Path, command) -> None:
    with held(outputs / OTHER):
        states = {run.name: run.state for run in found_runs(outputs)}
        outcome = command("runs", f"remove=[{TRAIN},{OTHER}]", "yes=true")
    assert states == {OTHER: "running", TRAIN: "finished", EVALUATE: "finished"}
    assert outcome.code == 2
    assert "is running; stop it first" in outcome.err
    assert (outputs / TRAIN).is_dir()


def test_a_killed_process_is_not_running(outputs: Path) -> None:
    (outputs / OTHER / "error.txt").unlink()
    with held(outputs / TRAIN):
        note = (outputs / TRAIN / ".holder.json").read_text()
    # The note of a process that lives, but has let go of the lock.
    (outputs / OTHER / ".holder.json").write_text(note)
    assert {run.name: run.state for run in found_runs(outputs)}[OTHER] == "unfinished"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["modle=resnet18"], "Did you mean 'model'?"),
        (["finished"], "Expected key=value after `runs`, but got 'finished'"),
        (["state=done"], "`state`"),
        (["show=nowhere"], "`python -m saliency_lab runs` lists them"),
        (["remove=*", "yes=maybe"], "`yes` to be true or false"),
        (["model="], "`model` to have a value"),
        (["remove=*", "show=*", "yes=true"], "one of show, compare and remove"),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: str, outputs: Path, command) -> None:
    outcome = command("runs", *words)
    assert outcome.code == 2
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_nothing_there(tmp_path: Path, command) -> None:
    outcome = command("runs")
    assert (outcome.code, outcome.out) == (0, "0 runs below 'outputs'\n")
    assert not (tmp_path / "outputs").exists()


def test_damaged_files_do_not_hide_a_run(outputs: Path) -> None:
    (outputs / TRAIN / "summary.json").write_text('{"status": "fin')
    (outputs / OTHER / "config.yaml").write_text("{")
    states = {run.name: (run.task, run.state) for run in found_runs(outputs)}
    assert states[TRAIN] == ("train", "unfinished")
    assert states[OTHER] == ("train", "failed")


def test_many_runs_take_a_moment_and_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.argv[1:] = ['runs']\nfrom saliency_lab.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_ages_and_sizes() -> None:
    hours = 3600
    ages = [age_text(s) for s in (-1, 59, 60, hours - 1, hours, 24 * hours, 50 * hours)]
    assert ages == ["0 s", "59 s", "1 min", "59 min", "1 h", "1 d", "2 d"]
    sizes = [size_text(s) for s in (0, 999, 1000, 99_400, 99_600, 999_600, 2_500_000_000)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "99.4 kB", "100 kB", "1.0 MB", "2.5 GB"]


def test_age_is_that_of_the_newest_file(outputs: Path) -> None:
    past = time.time() - 7200
    for path in (outputs / TRAIN).rglob("*"):
        os.utime(path, (past, past))
    os.utime(outputs / TRAIN, (past, past))
    found = {run.name: run.changed for run in found_runs(outputs)}
    assert found[TRAIN] == pytest.approx(past)
    assert found[OTHER] > past + 3600
