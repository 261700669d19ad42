"""Sweepers that choose settings by what trainings have reached."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest
import yaml
from hydra.types import RunMode

from saliency_lab.cli import jobs
from saliency_lab.cli.search import kept_results, objective, require_searchable
from saliency_lab.errors import UserError

SMALL = (
    *("data.train_images=40", "data.test_images=20", "trainer.max_epochs=1"),
    *("trainer=cpu", "logger=none"),
)


def _hydra(sweeper: str = "optuna", mode: RunMode = RunMode.MULTIRUN, **settings: object) -> object:
    choices = {"hydra/sweeper": sweeper}
    return SimpleNamespace(mode=mode, runtime=SimpleNamespace(choices=choices), sweeper=settings)


def test_the_objective_is_of_validation_images_and_never_of_test_images(tmp_path):
    summary = {"status": "finished", "test": {"accuracy": 0.9}}
    for best, expected in (
        ({"monitor": "val/accuracy", "value": 0.25}, 0.25),
        ({"monitor": "train/loss", "value": 0.1}, None),
        ({}, None),
    ):
        (tmp_path / "summary.json").write_text(json.dumps(summary | {"best": best}))
        assert objective("train", tmp_path) == expected
        assert objective("evaluate", tmp_path) is None


def test_what_cannot_be_searched_is_refused():
    good, none = {"data": {"validation": 0.1}}, {"data": {"validation": 0.0}}
    require_searchable("train", good, _hydra(direction="maximize"))
    require_searchable("train", none, _hydra(mode=RunMode.RUN))
    require_searchable("evaluate", none, _hydra("basic"))
    with pytest.raises(UserError, match="with the task train, but got evaluate"):
        require_searchable("evaluate", good, _hydra(direction="maximize"))
    with pytest.raises(UserError, match=r"Expected `data\.validation` to be above 0"):
        require_searchable("train", none, _hydra(direction="maximize"))
    for direction in ("minimize", SimpleNamespace(name="minimize")):
        with pytest.raises(UserError, match=r"`hydra\.sweeper\.direction` to be maximize"):
            require_searchable("train", good, _hydra(direction=direction))


def test_the_results_of_a_search_are_kept_beside_the_runs(tmp_path):
    sweep = tmp_path / ".sweeps" / "here-1"
    sweep.mkdir(parents=True)
    assert kept_results(sweep) is None
    found = {"name": "optuna", "best_params": {"optimizer.lr": 0.5}, "best_value": 0.75}
    (sweep / "optimization_results.yaml").write_text(yaml.safe_dump(found))
    told = kept_results(sweep)
    assert told is not None
    assert "optimizer.lr=0.5 (val/accuracy 0.75)" in told
    (kept,) = (tmp_path / "searches").iterdir()
    assert yaml.safe_load(kept.read_text()) == found


def test_a_training_hands_its_validation_accuracy_to_hydra(command, tmp_path, monkeypatch):
    returned = []
    run_task = jobs.run_task

    def recorded(config):
        returned.append(run_task(config))
        return returned[-1]

    monkeypatch.setattr(jobs, "run_task", recorded)
    words = ("train", "-m", *SMALL, "data.validation=0.3", "optimizer.lr=0.001,0.1")
    assert command(*words).code == 0
    summaries = [
        json.loads(p.read_text()) for p in sorted(tmp_path.glob("outputs/**/summary.json"))
    ]
    assert len(returned) == 2
    assert sorted(returned) == sorted(one["best"]["value"] for one in summaries)
    first = list(returned)
    # Finished trainings hand over the same again.
    assert command(*words).code == 0
    assert returned[2:] == first


@pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="hydra-optuna-sweeper is not installed"
)
def test_optuna_searches(command, tmp_path):
    outcome = command("train", "-m", "experiment=optuna", *SMALL, "hydra.sweeper.n_trials=2")
    assert outcome.code == 0, outcome.err
    assert "all 2 jobs of the sweep finished" in outcome.out
    assert "best: optimizer.lr=" in outcome.out
    summaries = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/train/**/summary.json")]
    (kept,) = tmp_path.glob("outputs/searches/*.yaml")
    best = yaml.safe_load(kept.read_text())["best_value"]
    assert best == max(one["best"]["value"] for one in summaries)
    refused = command(
        "train", "-m", *SMALL, "hydra/sweeper=optuna", "optimizer.lr=interval(0.001,0.1)"
    )
    assert refused.code == 2
    assert "`data.validation`" in refused.err


@pytest.mark.skipif(
    importlib.util.find_spec("optuna") is not None, reason="hydra-optuna-sweeper is installed"
)
def test_without_the_sweeper_a_line_says_what_to_install(command):
    outcome = command("train", "-m", "experiment=optuna", *SMALL)
    assert outcome.code == 2
    assert "pip install 'saliency-lab[launchers]'" in outcome.err
