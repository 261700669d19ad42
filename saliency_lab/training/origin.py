"""`run=DIR`: a training whose settings an evaluation takes over, so that nothing is repeated."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saliency_lab.config.identity import NOT_IDENTITY, TRAINING, comparable, is_below, leaves
from saliency_lab.config.location import config_directory
from saliency_lab.errors import UserError
from saliency_lab.runs.directory import CONFIG, read_config

TASKS = ("evaluate", "explain", "compare")
# Which images are measured, and how they are read, is the evaluation's own business.
_OF_THE_EVALUATION = (
    *("data.limit", "data.workers", "data.cache_dir", "data.on_corrupt"),
    *("data.name", "data._target_"),
)
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")


def stored_settings(directory: Path) -> dict[str, Any]:
    """The configuration of the training in a run directory.

    Raises:
        UserError: the directory is none of a training.
    """
    stored = read_config(directory)
    if not directory.parts:
        # Empty text is a variable of the shell that is not set, and not the current folder.
        raise UserError("Expected `run` to be the run directory of a training, but got ''")
    if not stored:
        raise UserError(
            f"Expected `run` to be the run directory of a training, but '{directory}' has no "
            f"readable {CONFIG}"
        )
    if stored.get("task") != "train" or "data" not in stored:
        raise UserError(
            f"Expected `run` to be the run directory of a training, but '{directory}' is one of "
            f"'{stored.get('task')}'"
        )
    return stored


def with_origin(task: str, words: Sequence[str]) -> list[str]:
    """The words of a command line and, where they hold `run=DIR`, those of that training's data.

    The rest of the training's settings does not decide what is composed; see `of_training`.

    Raises:
        UserError: DIR is no training, there are several, or `data=` is another one than its own.
    """
    named = [word.partition("=")[2] for word in words if word.startswith("run=")]
    if task not in TASKS or not named or named[-1] in ("", "null"):
        return list(words)
    directory = Path(named[-1].strip("'\""))
    if "," in named[-1] and not directory.is_dir():
        raise UserError(
            f"Expected `run` to be one directory, but got '{named[-1]}'; to measure several "
            "classifiers of the same data in one sweep, use ckpt=DIR,DIR"
        )
    stored = stored_settings(directory)
    choice = _choice(directory, stored)
    given = {word.lstrip("+~").partition("=")[0]: word.partition("=")[2] for word in words}
    if given.get("data", choice) != choice:
        raise _contradiction("data", choice, given["data"], directory)
    added = [] if "data" in given else [f"data={choice}"]
    usual = _usual("data", choice)
    for key, value in leaves({"data": stored["data"]}).items():
        if key not in given and key not in _OF_THE_EVALUATION and usual.get(key, ...) != value:
            added.append(f"++{key}={_text(value)}")
    if "seed" not in given and "seed" in stored:
        added.append(f"seed={stored['seed']}")
    # Beside the other settings: Hydra takes none behind an option such as `--cfg job`.
    at = next(place for place, word in enumerate(words) if word.startswith("run=")) + 1
    return [*words[:at], *added, *words[at:]]


def of_training(settings: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation with those that decided the training taken from it."""
    taken = {key: stored[key] for key in ("optimizer", "scheduler", "callback") if key in stored}
    trainer = {
        key: value
        for key, value in stored.get("trainer", {}).items()
        if f"trainer.{key}" not in NOT_IDENTITY
    }
    groups = {key: value for key, value in taken.items() if key in settings}
    return {**settings, **groups, "trainer": {**settings["trainer"], **trainer}}


def require_no_contradiction(
    config: Mapping[str, Any], directory: Path, given: Collection[str]
) -> None:
    """Refuse keys of the command line that say otherwise than the training itself.

    Raises:
        UserError: naming the first such key and both values.
    """
    stored, mine = comparable(stored_settings(directory)), comparable(config)
    # The choice of a trainer says where a run happens; what it sets that matters is a key.
    said = [word for word in given if is_below(word, TRAINING) and word not in ("seed", "trainer")]
    for word in sorted(said):
        for key, value in mine.items():
            free = is_below(key, (*NOT_IDENTITY, *_OF_THE_EVALUATION))
            meant = is_below(key, (word,)) or is_below(word, (key,))
            if meant and not free and stored.get(key, value) != value:
                raise _contradiction(key, stored[key], value, directory)


def _contradiction(key: str, stored: object, given: object, directory: Path) -> UserError:
    return UserError(
        f"Expected `{key}` to be that of the training '{directory}', which is {stored!r}, but got "
        f"{given!r}; leave it out, it comes from `run`"
    )


def _choice(directory: Path, stored: Mapping[str, Any]) -> str:
    """The name of the yaml that the training's data came from."""
    # The path names the choice where it is not the data set's own name.
    other = re.search(r"\+data-([^+]+)", directory.name)
    return other[1] if other else str(stored["data"]["name"])


def _usual(group: str, choice: str) -> dict[str, Any]:
    """The values of a yaml of this package; empty for a person's own."""
    path = config_directory() / group / f"{choice}.yaml"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for built_on in content.pop("defaults", []):
        found |= _usual(group, built_on.partition("@")[0])
    return found | leaves({group: content})


def _text(value: object) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_text(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)
