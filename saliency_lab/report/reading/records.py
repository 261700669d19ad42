"""What run directories hold, read and checked: finished runs as records, the rest as problems."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from pydantic import ValidationError

from saliency_lab.config.identity import NO_CHECKPOINT
from saliency_lab.errors import UserError
from saliency_lab.evaluation.rows.format import (
    EXAMPLES,
    ComparisonSummary,
    EvaluationSummary,
    EvaluatorSummary,
    TrainingSummary,
    older_format,
    table_path,
)
from saliency_lab.report.reading.checked_files import (
    EXAMPLE_ARRAYS,
    OfFile,
    anew,
    checked_example_ids,
    checked_metrics,
    require_whole,
    shown_scores,
)
from saliency_lab.report.reading.configs import (
    evaluator_settings,
    is_pretrained,
    recipe_of,
    settings_of,
)
from saliency_lab.report.reading.directories import chosen_directories, run_directories
from saliency_lab.runs.directory import read_config

_UNREADABLE: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, EOFError)
_UNREADABLE += (zipfile.BadZipFile, zlib.error, pa.ArrowException, yaml.YAMLError)


@dataclass(frozen=True)
class Problem:
    """A run directory that cannot be shown: its state ("failed", "unfinished", "unreadable")."""

    name: str
    state: str
    reason: str


@dataclass(frozen=True)
class EvaluationRun:
    """What one evaluator measured in a finished evaluation.

    `recipe` is how the classifier was trained but for the seed, None where that is not known;
    `settings` what shapes the maps beside classifier and images ("method.samples": "20"), empty
    where the config does not say.
    """

    name: str
    path: Path
    label: str
    summary: EvaluationSummary
    environment: Mapping[str, Any]
    pretrained: bool
    recipe: Mapping[str, str] | None
    settings: Mapping[str, str]
    read_scores: Callable[[], pd.DataFrame] = field(repr=False, compare=False)
    example_ids: tuple[str, ...]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per image, method, view and condition; read when first asked for.

        A page most of whose panels are as they were needs few of its runs' scores.
        """
        return self.read_scores()

    @property
    def found(self) -> EvaluatorSummary:
        """The evaluator's part of the summary."""
        return self.summary.evaluators[self.label]

    @property
    def measure(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Equal for runs whose scores can be compared: the evaluator, and what decides them."""
        found = evaluator_settings(self.found.settings, self.found.selects)
        return self.found.name, tuple(sorted(found.items()))

    def kept_examples(self, view: str) -> dict[str, np.ndarray]:
        """What was kept of the examples for a view: its maps, and what the evaluator adds."""
        return example_maps(self, [view])[1].get(view, {})

    def table(self, name: str) -> pd.DataFrame:
        """One of the evaluator's further tables, texts as they are written."""
        path = table_path(self.path, self.label, name)
        return _table(path, path.stat().st_mtime_ns).copy()


@dataclass(frozen=True)
class TrainingRun:
    name: str
    summary: TrainingSummary
    environment: Mapping[str, Any]
    pretrained: bool
    metrics: pd.DataFrame


@dataclass(frozen=True)
class ComparisonRun:
    """A finished `compare`: one entry of `summary.pairs` for each pair of maps."""

    name: str
    summary: ComparisonSummary


@dataclass
class Records:
    evaluations: list[EvaluationRun] = field(default_factory=list)
    trainings: list[TrainingRun] = field(default_factory=list)
    comparisons: list[ComparisonRun] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_records(
    outputs: Path, runs: Sequence[str] | None = None, of_file: OfFile = anew
) -> Records:
    """Everything under `outputs`, or only the runs named: directories or patterns inside it.

    A run that is unfinished, has failed or cannot be read becomes a problem, never an error. What
    takes long to find out of a file is asked for by `of_file`.

    Raises:
        UserError: no run is there, or a name in `runs` matches none.
    """
    found = sorted(run_directories(outputs))
    if not found:
        raise UserError(
            f"Expected `output_root` to hold runs, but found none in '{outputs}'; "
            "run `python -m saliency_lab train` first"
        )
    records = Records()
    for path in found if runs is None else chosen_directories(found, outputs, runs):
        name = path.relative_to(outputs).as_posix()
        try:
            _read_run(path, name, records, of_file)
        except _UNREADABLE as error:
            records.problems.append(Problem(name, "unreadable", _one_line(error)))
    return records


def example_maps(
    run: EvaluationRun, views: Iterable[str]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """The kept examples of a run: base arrays, and by view the map and what the evaluator kept."""
    method = run.summary.method
    with np.load(run.path / EXAMPLES, allow_pickle=False) as stored:
        base = {name: stored[name] for name in EXAMPLE_ARRAYS}
        own: dict[str, dict[str, np.ndarray]] = {}
        for view in views:
            if f"map:{method}/{view}" in stored:
                own[view] = {"map": stored[f"map:{method}/{view}"]}
                for name in stored.files:
                    label, _, kept = name.partition("|")
                    what, _, of = kept.partition(":")
                    # Runs of before could hold an evaluator's arrays of other examples.
                    if label == run.label and of == view and len(stored[name]) == len(base["ids"]):
                        own[view][what] = stored[name]
    return base, own


def _read_run(path: Path, name: str, records: Records, of_file: OfFile) -> None:
    summary = _json(path / "summary.json") if (path / "summary.json").exists() else {}
    if summary.get("status") != "finished":
        records.problems.append(_unfinished(path, name))
    elif summary.get("task", name.split("/")[0]) == "train":
        records.trainings.append(
            TrainingRun(
                name=name,
                summary=TrainingSummary.model_validate(summary),
                environment=_environment(path),
                pretrained=is_pretrained(_config(path)),
                metrics=checked_metrics(path / "metrics.csv"),
            )
        )
    elif summary.get("task") == "compare":
        records.comparisons.append(ComparisonRun(name, ComparisonSummary.model_validate(summary)))
    else:
        _read_evaluation(path, name, summary, records, of_file)


def _unfinished(path: Path, name: str) -> Problem:
    error = path / "error.txt"
    if error.exists():
        lines = [line for line in error.read_text(errors="replace").splitlines() if line.strip()]
        return Problem(name, "failed", lines[-1].strip() if lines else "no reason was recorded")
    metrics = path / "metrics.csv"
    if metrics.exists():
        epochs = len(pd.read_csv(metrics))
        return Problem(
            name, "unfinished", f"after {epochs} epochs; rerun the same command to resume"
        )
    return Problem(name, "unfinished", "rerun the same command to resume")


def _read_evaluation(
    path: Path, name: str, raw: Mapping[str, Any], records: Records, of_file: OfFile
) -> None:
    if older := older_format(path):
        records.problems.append(
            Problem(name, "older", f"{older}; rerun the same command to measure again")
        )
        return
    summary = EvaluationSummary.model_validate(raw)
    config = _config(path)
    for label in summary.running:
        # The evaluators that were there before are whole, whatever became of the new one.
        known = _unfinished(path, name)
        reason = f"{label} is unfinished; rerun the same command to resume"
        if known.state == "failed":
            reason = f"{label}: {known.reason}"
        records.problems.append(Problem(name, known.state, reason))
    kept = path / EXAMPLES
    examples = tuple(of_file(checked_example_ids, kept)) if kept.exists() else ()
    for label, found in summary.evaluators.items():
        require_whole(path, label, found, of_file)
        records.evaluations.append(
            EvaluationRun(
                name=name,
                path=path,
                label=label,
                summary=summary,
                environment=_environment(path),
                pretrained=is_pretrained(config),
                recipe=_recipe(config),
                settings=settings_of(config),
                read_scores=partial(shown_scores, path, label, found),
                example_ids=examples,
            )
        )


@lru_cache(maxsize=256)
def _table(path: Path, changed: int) -> pd.DataFrame:
    """A table of a run, read once for each time of change: every map of a run asks for it."""
    return pd.read_csv(path, keep_default_na=False, dtype={"method": str})


def _environment(path: Path) -> dict[str, Any]:
    file = path / "environment.json"
    return _json(file) if file.exists() else {}


def _recipe(config: Mapping[str, Any]) -> Mapping[str, str] | None:
    """How the classifier was trained: with `ckpt`, an evaluation's own settings do not say it."""
    if config.get("ckpt") in (None, NO_CHECKPOINT):
        return recipe_of(config)
    home = (config.get("classifier") or {}).get("directory")
    trained = read_config(Path(home)) if home else {}
    return recipe_of(trained) if trained else None


def _config(path: Path) -> Mapping[str, Any]:
    text = (path / "config.yaml").read_text(encoding="utf-8")
    # libyaml's loader, where there is one, takes a tenth of the time.
    config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(config, dict):
        raise ValueError("config.yaml is not a configuration")
    return config


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not an object")
    return value


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"summary.json: {place}: {first['msg']}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
