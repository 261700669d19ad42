"""What run directories there are, from their small files alone: no rows, no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from saliency_lab.config.identity import leaves, method_label
from saliency_lab.errors import UserError
from saliency_lab.runs.directory import CONFIG, ERROR, is_held, read_config, read_summary

STATES = ("finished", "running", "failed", "unfinished")


@dataclass(frozen=True)
class Run:
    """A run directory: what its configuration, summary and environment say.

    `score` is the main number in words ("accuracy 0.6361"; of an evaluation, the least and the
    greatest mean of its first evaluator), empty where there is none yet;
    `changed` is when anything of it was last written, in seconds since 1970; `size` is in bytes.
    """

    name: str
    path: Path
    task: str
    data: str
    model: str
    method: str
    seed: int | None
    state: str
    score: str
    changed: float
    size: int
    config: Mapping[str, Any] = field(repr=False, default_factory=dict)
    summary: Mapping[str, Any] = field(repr=False, default_factory=dict)
    environment: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def trained_by(self) -> Path | None:
        """The run directory of the training that it is about, if it is about one."""
        home = (self.config.get("classifier") or {}).get("directory")
        return None if home is None else Path(home)


def found_runs(outputs: Path) -> list[Run]:
    """Every run below `outputs`, by name."""
    return [_read(path, outputs) for path in sorted(_directories(outputs))]


def matching(runs: Sequence[Run], wanted: Mapping[str, Sequence[str]]) -> list[Run]:
    """The runs whose fields are as wanted: {"task": ["evaluate"], "model": ["resnet*"]}."""
    return [
        run
        for run in runs
        if all(
            any(fnmatchcase(str(getattr(run, name)), pattern) for pattern in patterns)
            for name, patterns in wanted.items()
        )
    ]


def named_runs(runs: Sequence[Run], names: Iterable[str], outputs: Path) -> list[Run]:
    """The runs that paths, names below `outputs` or patterns of such names mean, each once.

    Raises:
        UserError: a name means none.
    """
    found: dict[Path, Run] = {}
    for name in names:
        place = Path(name).expanduser().absolute()
        hits = [
            run
            for run in runs
            if run.path == place
            or run.name == name.removesuffix("/")
            or fnmatchcase(run.name, name)
        ]
        if not hits:
            raise UserError(
                f"Expected the name, folder or pattern of a run below '{outputs}', but '{name}' is "
                "none; `python -m saliency_lab runs` lists them"
            )
        found.update({run.path: run for run in hits})
    return list(found.values())


def differing(one: Run, other: Run) -> list[tuple[str, object, object]]:
    """The keys whose values differ in two configurations; `...` where one has no such key."""
    mine, theirs = leaves(one.config), leaves(other.config)
    keys = dict.fromkeys([*mine, *theirs])
    return [
        (key, mine.get(key, ...), theirs.get(key, ...))
        for key in keys
        if mine.get(key, ...) != theirs.get(key, ...)
    ]


def scores_of(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The means of the main score of each evaluator of a finished evaluation, by label."""
    found = {}
    for label, known in (summary.get("evaluators") or {}).items():
        main = known["scores"][0]["name"]
        found[label] = [mean for mean in known["means"] if mean["score"] == main]
    return found


def _directories(outputs: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(outputs):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "wandb")
        if CONFIG in files:
            # What lies below is the run's own: checkpoints, figures, scores.
            below.clear()
            yield Path(folder).absolute()


def _read(path: Path, outputs: Path) -> Run:
    config, summary = read_config(path), read_summary(path)
    name = path.relative_to(outputs.absolute()).as_posix()
    sizes, times = [], [path.stat().st_mtime]
    for file in path.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            state = file.stat()
            sizes.append(state.st_size)
            times.append(state.st_mtime)
    task = str(config.get("task") or name.split("/")[0])
    return Run(
        name=name,
        path=path,
        task=task,
        data=_name(config, "data"),
        model=_name(config, "model"),
        method=_method(config),
        seed=config.get("seed"),
        state=_state(path, summary),
        score=_score(task, summary),
        changed=max(times),
        size=sum(sizes),
        config=config,
        summary=summary,
        environment=_json(path / "environment.json"),
    )


def _state(path: Path, summary: Mapping[str, Any]) -> str:
    if is_held(path):
        return "running"
    if (path / ERROR).exists():
        return "failed"
    return "finished" if summary.get("status") == "finished" else "unfinished"


def _score(task: str, summary: Mapping[str, Any]) -> str:
    if summary.get("status") != "finished":
        return ""
    if task == "train":
        accuracy = (summary.get("test") or {}).get("accuracy")
        value = accuracy.get("value") if isinstance(accuracy, Mapping) else accuracy
        return "" if value is None else f"accuracy {value:.4f}"
    if task == "compare":
        verdicts = {str(pair.get("verdict")) for pair in summary.get("pairs") or [summary]}
        return f"verdict {', '.join(sorted(verdicts))}"
    found = scores_of(summary)
    for label, means in found.items():
        values = sorted(mean["value"] for mean in means if mean["value"] is not None)
        if values:
            span = f"{values[0]:.4f}" + (f" … {values[-1]:.4f}" if len(values) > 1 else "")
            others = f" (+{len(found) - 1})" if len(found) > 1 else ""
            return f"{summary['evaluators'][label]['name']} {span}{others}"
    return ""


def _name(config: Mapping[str, Any], group: str) -> str:
    known = config.get(group)
    return str(known.get("name", "")) if isinstance(known, Mapping) else ""


def _method(config: Mapping[str, Any]) -> str:
    if config.get("task") == "compare":
        return f"{_listed(config.get('a'))} or {_listed(config.get('b'))}"
    if isinstance(config.get("method"), Mapping) and isinstance(config.get("view"), Mapping):
        return method_label(config)
    return ""


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) else str(names)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
