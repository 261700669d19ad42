"""Sweeps that are killed, that have a job that fails, and that have the same job twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BLOCK, BLOCKS = 5, 8


def statuses(root: Path) -> dict[int, str]:
    """Seed to status of every run below."""
    found = {}
    for path in root.rglob("summary.json"):
        environment = json.loads((path.parent / "environment.json").read_text())
        found[environment["seed"]] = json.loads(path.read_text())["status"]
    return found


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(
    tmp_path: Path, evaluate, start, command, asked
) -> None:
    words = (evaluate[0], "-m", *evaluate[1:], "seed=0,1,2")
    gate = tmp_path / "waiting-0"
    run = start(*words, WAIT_AT=f"{BLOCKS + 4}")
    run.wait_for(gate.exists)
    run.process.kill()
    run.end()
    assert statuses(tmp_path / "outputs") == {0: "finished", 1: "running"}
    asked()
    again = command(*words)
    assert again.code == 0, again.err
    assert again.out.count("already finished") == 1
    assert again.err.count("resuming: 3 of 8 blocks already done") == 1
    assert len(asked()) == (BLOCKS - 3 + BLOCKS) * BLOCK
    assert statuses(tmp_path / "outputs") == dict.fromkeys(range(3), "finished")
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["evaluate"]


def test_a_failing_job_stops_no_other(
    tmp_path: Path, evaluate, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL_AT", f"{BLOCKS + 2}")
    outcome = command(evaluate[0], "-m", *evaluate[1:], "seed=0,1,2")
    assert outcome.code == 1
    *_, title, job, reason = outcome.err.splitlines()
    assert title == "1 of 3 jobs failed:"
    assert "seed=1" in job
    assert reason.strip() == "RuntimeError: the method is broken"
    assert statuses(tmp_path / "outputs") == {0: "finished", 1: "running", 2: "finished"}
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["evaluate"]
    monkeypatch.delenv("FAIL_AT")
    again = command(evaluate[0], "-m", *evaluate[1:], "seed=0,1,2")
    assert again.code == 0
    assert again.out.count("already finished") == 2
    assert again.err.count("resuming: 1 of 8") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_at_once_and_a_job_given_twice(
    launcher: str, tmp_path: Path, evaluate, start, asked
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    run = start(evaluate[0], "-m", *evaluate[1:], "seed=0,0", f"hydra/launcher={launcher}")
    assert run.end() == 0, run.read()
    assert "all 2 jobs of the sweep finished" in run.read()
    assert len(asked()) == BLOCKS * BLOCK
    assert statuses(tmp_path / "outputs") == {0: "finished"}
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["evaluate"]


@pytest.mark.slow
def test_jobs_refused_at_once_are_all_named_and_leave_nothing(tmp_path: Path, start) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    here = set(tmp_path.iterdir())
    words = ("train", "-m", "hydra/launcher=joblib", "data=imagenette", "data.root=nowhere")
    run = start(*words, "hydra.launcher.n_jobs=4", "seed=0,0,0,1")
    assert run.end() == 2, run.read()
    assert "4 of 4 jobs failed:" in run.read()
    assert {path for path in tmp_path.iterdir() if path.suffix != ".txt"} == here


def test_the_profiles_name_installed_launchers(evaluate, command) -> None:
    for profile, launcher in (("many_cores", "joblib"), ("slurm", "submitit_slurm")):
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
        words = (*evaluate, f"experiment={profile}", "--cfg", "hydra", "-p", "hydra.launcher")
        outcome = command(*words)
        assert outcome.code == 0, outcome.err
        assert launcher.partition("_")[0] in outcome.out


def test_a_missing_launcher_is_named() -> None:
    from hydra.errors import MissingConfigException

    from saliency_lab.cli.faults import one_line

    missing = MissingConfigException("", "hydra/launcher/joblib", ["basic"])
    line = one_line(missing, "evaluate", [])
    assert line == (
        "Expected the launcher of `hydra/launcher=joblib` to be installed, but it is not: "
        "pip install 'saliency-lab[launchers]' (or hydra-joblib-launcher)"
    )
