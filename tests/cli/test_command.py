"""The command line as a person meets it: words, help, sweeps, faults, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saliency_lab.cli.words import TASKS

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.train_images=40",
    "data.test_images=20",
    "trainer.max_epochs=1",
    "trainer=cpu",
    "logger=none",
)


def runs(place: Path) -> list[Path]:
    return sorted(path.parent for path in place.glob("outputs/**/summary.json"))


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=variables, capture_output=True, text=True
    )


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_overview_of_the_tasks(word, command):
    outcome = command(word)
    assert outcome.code == 0
    for task, (_, example) in TASKS.items():
        assert task in outcome.out
        assert example in outcome.out


def test_nothing_is_said_to_be_done_without_a_task(command):
    assert command().code == 2


def test_version(command):
    outcome = command("--version")
    assert (outcome.code, outcome.out.count(".")) == (0, 2)


def test_help_and_job_without_heavy_imports(tmp_path):
    """What makes them fast: torch alone takes seconds."""
    for words in (["--help"], ["train", "--cfg", "job"], ["evaluate", "--help"]):
        code = (
            f"import sys; sys.argv[1:] = {words}\n"
            "from saliency_lab.cli import main\n"
            "try:\n    main()\n"
            "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
            "heavy = {'torch', 'pytorch_lightning', 'wandb', 'pandas', 'timm'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        done = python(code, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert not list(tmp_path.iterdir())


def test_help_of_a_task_lists_groups_and_keys(command):
    outcome = command("train", "--help")
    assert outcome.code == 0
    for line in (
        "model: basic_cnn, convnext, efficientnet_lite0, exported, huggingface, patch_sum, python, "
        "resnet18, timm, torchscript, vgg16",
        "scheduler: constant",
    ):
        assert line in outcome.out
    assert "batch_size: 128" in outcome.out


def test_info(command):
    outcome = command("train", "--info", "searchpath")
    assert outcome.code == 0
    assert str(ROOT / "conf") in outcome.out + outcome.err


def test_job_with_overrides(command):
    outcome = command("train", "model=resnet18", "data=imagenette", "--cfg", "job")
    assert outcome.code == 0
    assert "name: resnet18" in outcome.out
    assert "name: imagenette" in outcome.out


def test_a_finished_run_says_so_without_torch(command, tmp_path, cache_dir):
    first = command("train", *SMALL)
    assert first.code == 0, first.err
    (run,) = runs(tmp_path)
    code = (
        f"import sys; sys.argv[1:] = {['train', *SMALL]}\n"
        "from saliency_lab.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    before = (run / "summary.json").stat().st_mtime_ns
    again = python(code, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout
    assert str(run) in again.stdout
    # The same table as the first time.
    assert first.out.splitlines()[-3:-1] == again.stdout.splitlines()[-3:-1]
    assert (run / "summary.json").stat().st_mtime_ns == before
    told = json.loads((run / "environment.json").read_text())["command"]
    assert told.split() == ["saliency-lab", "train", *SMALL]
    anew = command("train", *SMALL, "overwrite=true")
    assert anew.code == 0
    assert (run / "summary.json").stat().st_mtime_ns > before


def test_a_terminal_that_lacks_a_letter_is_no_fault(tmp_path):
    code = (
        "import sys; sys.argv[1:] = ['runs', 'output_root=Läufe']\n"
        "from saliency_lab.cli import main\n"
        "main()\n"
    )
    (tmp_path / "Läufe").mkdir()
    shown = python(code, tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "0 runs below 'L\\xe4ufe'\n"


def test_a_sweep_makes_its_runs_and_nothing_else(command, tmp_path):
    outcome = command("train", "-m", "seed=0,1,2", *SMALL)
    assert outcome.code == 0, outcome.err
    found = runs(tmp_path)
    assert len(found) == 3
    assert outcome.out.count("wrote ") == 3
    seeds = [json.loads((run / "summary.json").read_text())["seed"] for run in found]
    assert sorted(seeds) == [0, 1, 2]
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["train"]
    assert "SALIENCY_LAB_SWEEP" not in os.environ


@pytest.mark.parametrize(
    "words",
    [
        ("--cfg", "job", "data=cifar10", "seed=5"),
        ("data=cifar10", "--cfg", "job", "seed=5"),
        ("data=cifar10", "--cfg=job", "seed=5", "--resolve"),
        ("data=cifar10", "--resolve", "seed=5", "-c", "job"),
    ],
)
def test_flags_stand_anywhere(words, command):
    outcome = command("train", *words)
    assert outcome.code == 0, outcome.err
    assert "name: cifar10" in outcome.out
    assert "seed: 5" in outcome.out


def test_failing_jobs_of_a_sweep_are_listed_and_the_others_run(command, tmp_path):
    outcome = command("train", *SMALL, "-m", "seed=0", "optimizer.lr=-1,0.01")
    assert outcome.code == 2
    assert "1 of 2 jobs failed:" in outcome.err
    report = outcome.err.partition("jobs failed:")[2]
    assert "optimizer.lr=-1" in report
    assert "to be a number greater than 0, but got -1" in report
    assert len(runs(tmp_path)) == 1


def test_a_fault_of_the_program_keeps_its_traceback(command, monkeypatch):
    def broken(config, directory):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("saliency_lab.tasks.train.run", broken)
    outcome = command("train", *SMALL)
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert outcome.err.rstrip().endswith("ZeroDivisionError: a fault")


def test_ctrl_c(command, monkeypatch):
    def interrupted(config, directory):
        raise KeyboardInterrupt

    monkeypatch.setattr("saliency_lab.tasks.train.run", interrupted)
    outcome = command("train", *SMALL)
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert "rerun the same command to resume" in outcome.err


def test_a_traceback_can_be_asked_for(command, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    outcome = command("train", "data.batch_size=0")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.rstrip().splitlines()[-1].startswith("error: Expected `data.batch_size`")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_a_config_directory_of_ones_own(command, tmp_path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "few.yaml").write_text(
        "defaults:\n  - shapes\nname: few\ntrain_images: 40\ntest_images: 20\n"
    )
    words = ("train", "--config-dir", "mine", "data=few")
    outcome = command(*words, "trainer.max_epochs=1", "trainer=cpu", "logger=none")
    assert outcome.code == 0, outcome.err
    (run,) = runs(tmp_path)
    assert run.parts[-3:-1] == ("few", "basic_cnn")


def test_a_default_that_has_changed_since_is_no_silent_mixture(command, tmp_path):
    assert command("train", *SMALL).code == 0
    (run,) = runs(tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.002"))
    outcome = command("train", *SMALL)
    assert outcome.code == 2
    assert "`optimizer.lr` is 0.002 there and 0.001 here" in outcome.err
    assert command("train", *SMALL, "overwrite=true").code == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("saliency-lab ", set(TASKS)),
        ("saliency-lab tr", {"train"}),
        ("saliency-lab runs s", {"seed=", "state=", "show="}),
        ("saliency-lab train model=res", {"model=resnet18"}),
        ("saliency-lab train optimizer.l", {"optimizer.lr="}),
        ("saliency-lab evaluate method=smoothgrad_", {"method=smoothgrad_squared"}),
    ],
)
def test_completion(line, expected, command, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    outcome = command("-sc", "query=bash")
    assert outcome.code == 0, outcome.err
    assert set(outcome.out.split()) == expected


def test_completion_is_installed_by_a_line_for_the_shell(command):
    outcome = command("-sc", "install=bash")
    assert outcome.code == 0
    assert "complete " in outcome.out


def test_as_a_module_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "saliency_lab", "train", "model=resnet81"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: Expected `model` to be one of basic_cnn, convnext, efficientnet_lite0, exported, "
        "huggingface, patch_sum, python, resnet18, timm, torchscript, vgg16, but got 'resnet81'. "
        "Did you mean 'resnet18'?\n"
    )
