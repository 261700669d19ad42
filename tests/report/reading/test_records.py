"""Reading run directories: whatever state they are in, the report goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.format import FORMAT
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.page.page import write_report
from saliency_lab.report.page.sections import training_section
from saliency_lab.report.reading.checked_files import OfFile
from saliency_lab.report.reading.records import read_records

from ..rundirs import FRACTIONS, write_evaluation, write_training


def test_every_state_is_told_apart(outputs: Path) -> None:
    records = read_records(outputs)
    assert len(records.evaluations) == 8
    assert len(records.trainings) == 1
    found = {problem.name: (problem.state, problem.reason) for problem in records.problems}
    assert found["evaluate/cifar10/convnext_tiny/paper/seed=42"] == (
        "failed",
        "RuntimeError: out of <memory> & time",
    )
    state, reason = found["train/cifar10/basic_cnn/seed=42"]
    assert state == "unfinished"
    assert "3 epochs" in reason


def test_nothing_there_says_which_command_comes_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m saliency_lab train") as caught:
        read_records(tmp_path / "outputs")
    assert "\n" not in str(caught.value)


def test_runs_are_chosen_by_name_folder_or_pattern(outputs: Path) -> None:
    name = "evaluate/cifar10/resnet18/paper/seed=42"
    for chosen in (name, str(outputs / name), "evaluate/cifar10/resnet18/paper*"):
        assert [run.name for run in read_records(outputs, [chosen]).evaluations] == [name]
    assert len(read_records(outputs, ["evaluate/cifar10/resnet18"]).evaluations) == 5


def test_a_name_that_is_no_run_gets_one_short_line(outputs: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_records(outputs, ["/nope"])
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 200 + 2 * len(str(outputs))
    assert "'/nope'" in text
    assert f"'{outputs}'" in text
    with pytest.raises(UserError, match="for example evaluate/cifar10/resnet18/"):
        read_records(outputs, ["evaluate/cifar10/resnet81/paper/seed=42"])


def test_scores_of_images_are_those_of_the_rows(outputs: Path) -> None:
    run = read_records(outputs, ["evaluate/cifar10/basic_cnn/*"]).evaluations[0]
    rows = pd.read_parquet(run.path / "deletion.parquet")
    assert len(run.scores) == rows["sample_id"].nunique() * 5 * 2
    one = run.scores.iloc[17]
    keys = ["sample_id", "method", "view", "mode", "fill"]
    mine = rows[(rows[keys] == one[keys]).all(axis=1)].sort_values("fraction")
    assert one["allegiance"] == pytest.approx(np.trapezoid(mine["agrees"].astype(float), FRACTIONS))
    assert one["probability"] == pytest.approx(np.trapezoid(mine["probability"], FRACTIONS))
    assert one["deleted"] == pytest.approx(mine["deleted"].iloc[-1])
    means = run.scores.groupby(["view", "fill"])
    names = [score.name for score in run.found.scores]
    assert len(run.found.means) == len(names) * 5 * 2
    for mean in run.found.means:
        group = means.get_group((mean.view, mean.condition["fill"]))
        assert group[mean.score].mean() == pytest.approx(mean.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 3, len(content) // 2)
    content[middle] = bytes(len(content[middle]))
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "rows cut": lambda run: _cut(run / "deletion.parquet"),
    "rows spoilt inside": lambda run: _spoil(run / "deletion.parquet"),
    "rows gone": lambda run: (run / "deletion.parquet").unlink(),
    "scores cut": lambda run: _cut(run / "scores" / "deletion.parquet"),
    "summary cut": lambda run: _cut(run / "summary.json"),
    "summary a list": lambda run: (run / "summary.json").write_text("[]"),
    "summary of another form": lambda run: (run / "summary.json").write_text(
        json.dumps({"task": "evaluate", "status": "finished", "format": FORMAT})
    ),
    "curves gone": lambda run: (run / "deletion-curves.csv").unlink(),
    "curves empty": lambda run: (run / "deletion-curves.csv").write_text(""),
    "curves cut": lambda run: _cut(run / "deletion-curves.csv"),
    "curves spoilt inside": lambda run: _spoil(run / "deletion-curves.csv"),
    "curves of another form": lambda run: (run / "deletion-curves.csv").write_text("a,b\n1,2\n"),
    "curves without a row": lambda run: (run / "deletion-curves.csv").write_text("method,view\n"),
    "examples cut": lambda run: _cut(run / "examples.npz"),
    "examples spoilt inside": lambda run: _spoil(run / "examples.npz"),
    "examples lack labels": lambda run: np.savez(run / "examples.npz", ids=np.array(["a"])),
    "config not yaml": lambda run: (run / "config.yaml").write_text("{: ["),
    "config empty": lambda run: (run / "config.yaml").write_text(""),
    "config a word": lambda run: (run / "config.yaml").write_text("nothing"),
    "environment cut": lambda run: _cut(run / "environment.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_and_skipped(tmp_path: Path, damage: str) -> None:
    write_evaluation(tmp_path, count=6, size=8, shown=4)
    broken = write_evaluation(tmp_path, count=6, size=8, shown=4, model="basic_cnn")
    DAMAGES[damage](broken)
    records = read_records(tmp_path)
    assert [run.summary.model.name for run in records.evaluations] == ["resnet18"]
    (problem,) = records.problems
    assert problem.name == "evaluate/cifar10/basic_cnn/paper/seed=42"
    assert problem.state == "unreadable"
    assert problem.reason
    assert "\n" not in problem.reason


def _keep(path: Path, lines: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


METRICS: dict[str, Callable[[Path], object]] = {
    "a header alone": lambda path: _keep(path, 1),
    "empty": lambda path: path.write_text(""),
    "cut within the header": lambda path: path.write_text("epo"),
    "cut": _cut,
    "spoilt inside": _spoil,
    "words": lambda path: path.write_text("epoch,train/loss\n1,2.3\n2,x\n"),
}


@pytest.mark.parametrize("damage", METRICS)
def test_a_training_with_damaged_metrics_is_named_and_skipped(tmp_path: Path, damage: str) -> None:
    write_training(tmp_path, epochs=3)
    METRICS[damage](write_training(tmp_path, epochs=3, name="broken") / "metrics.csv")
    files = write_report(tmp_path, None, tmp_path / "report")
    assert [run.name for run in files.records.trainings] == ["train/cifar10/resnet18/seed=42"]
    (problem,) = files.records.problems
    assert (problem.name, problem.state) == ("train/cifar10/resnet18/broken", "unreadable")
    assert "train/cifar10/resnet18/broken" in files.page.read_text(encoding="utf-8")


def test_a_metric_of_no_epoch_has_no_line(tmp_path: Path) -> None:
    path = write_training(tmp_path, epochs=3) / "metrics.csv"
    table = pd.read_csv(path)
    table.assign(**{"val/loss": np.nan}).to_csv(path, index=False)
    (run,) = read_records(tmp_path).trainings
    accuracy, loss = training_section(run, "slug")["charts"]
    assert [len(chart["legend"]) for chart in (accuracy, loss)] == [2, 1]


def test_files_that_have_not_changed_are_not_read_again(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path, count=6, size=8, shown=4)
    kept = tmp_path / "kept.json"
    asked: list[Path] = []

    def counted(known: Known) -> OfFile:
        def of_file(function: Callable[[Path], Any], path: Path) -> Any:
            def noted(place: Path) -> Any:
                asked.append(place)
                return function(place)

            return known.of_file(wraps(function)(noted), path)

        return of_file

    for _ in range(2):
        known = Known(kept)
        assert len(read_records(tmp_path, None, counted(known)).evaluations) == 1
        known.save()
    assert asked.count(run / "deletion.parquet") == 1
    assert len(asked) == len(set(asked))
    _spoil(run / "deletion.parquet")
    (problem,) = read_records(tmp_path, None, Known(kept).of_file).problems
    assert problem.state == "unreadable"


def test_runs_are_found_in_a_folder_that_is_called_as_another_tools_is(tmp_path: Path) -> None:
    for place in (tmp_path / "wandb" / "outputs", tmp_path / "retraining" / "outputs"):
        write_evaluation(place, count=6, size=8, shown=4)
        assert len(read_records(place).evaluations) == 1


def test_files_of_other_tools_are_not_runs(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path, count=6, size=8, shown=4)
    for folder in ("wandb/offline-run", ".hydra"):
        (run / folder).mkdir(parents=True)
        shutil.copy(run / "config.yaml", run / folder / "config.yaml")
    records = read_records(tmp_path)
    assert len(records.evaluations) == 1
    assert not records.problems
