"""The classifier that an evaluation or explanation is about, found before anything heavy starts."""

from __future__ import annotations

import functools
import logging
import pickle
import re
import shlex
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from saliency_lab.config.content import file_digest
from saliency_lab.config.identity import (
    NO_CHECKPOINT,
    comparable,
    conflicts,
    is_below,
    training_config,
)
from saliency_lab.errors import UserError
from saliency_lab.runs.directory import CONFIG, is_finished, read_config
from saliency_lab.training.brought_along import brought_along
from saliency_lab.training.origin import require_no_contradiction

log = logging.getLogger(__name__)

_NAMES = ("last.ckpt", "previous.ckpt")
_LIMIT = "data.limit"
_SHOWN = 5


def classifier_of(config: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The checkpoint that a configuration means, its digest, and what it says of itself.

    With `ckpt=none`, the network that `model` brings along. With another `ckpt`, that file, or the
    newest of that run directory; with `run`, the newest of that training. Else the finished
    training of these settings below `output_root`: `data.limit` is that of the evaluated images, so
    the one that was trained on all images; where there is none but one with a limit, that one.

    Args:
        config: resolved; `data`, `model` and the other settings of a training.
        given: dotted keys and groups that the command line sets.

    Returns:
        path, sha256, epoch (epochs trained, or None), directory (the training's, or None), model
        (its settings), data (its name).

    Raises:
        UserError: there is no such classifier, or `model` says otherwise than the checkpoint. The
            message lists trainings near by and the command for each.
    """
    if config.get("ckpt") == NO_CHECKPOINT and config.get("run") is None:
        return brought_along(config["model"])
    path = _meant(config)
    if config.get("run") is not None:
        require_no_contradiction(config, Path(config["run"]), given)
    facts = checkpoint_facts(path)
    _require_same_model(config, facts, path, given)
    home = path.parent.parent if path.parent.name == "checkpoints" else None
    return {
        "path": str(path),
        "sha256": _digest(path, path.stat().st_mtime_ns),
        "epoch": facts.get("epoch"),
        "directory": None if home is None or not (home / CONFIG).is_file() else str(home),
        "model": dict(facts["model"]),
        "data": facts.get("data"),
    }


def checkpoint_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint of this program says of its model, read without its tensors or torch.

    `epoch` is how many it was trained for, where the file says so.

    Raises:
        UserError: the file is truncated, or no checkpoint of this program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(record) as file:
                content = _PlainParts(file).load()
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, OSError, EOFError) as error:
        raise UserError(
            f"Expected `ckpt` to be a readable checkpoint, but '{path}' is truncated or of another "
            f"kind ({type(error).__name__})"
        ) from error
    facts = content.get("facts") if isinstance(content, dict) else None
    if not isinstance(facts, dict) or not {"model", "classes", "input_shape"} <= facts.keys():
        raise UserError(
            f"Expected `ckpt` to be a checkpoint of this program's train task, but '{path}' "
            "carries no description of its model"
        )
    done = content.get("epoch")
    return {**facts, "epoch": done + 1} if isinstance(done, int) else facts


class _Ignored:
    """Stands for whatever is not a plain container: tensors, and the functions that build them."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Mapping(dict[Any, Any]):
    """Stands for an OrderedDict, whose further attributes are ignored."""

    def __setstate__(self, state: object) -> None:
        pass


class _PlainParts(pickle.Unpickler):
    """Reads plain containers and nothing else; no code of the file is run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Mapping
        return _Ignored

    def persistent_load(self, pid: object) -> Any:
        return None


def newest_file(directory: Path) -> Path | None:
    """The last checkpoint of a run directory that is whole as far as its end tells, or None."""
    for name in _NAMES:
        path = directory / "checkpoints" / name
        if path.is_file() and zipfile.is_zipfile(path):
            return path
    return None


def _said_to_be_newest(directory: Path) -> Path | None:
    """`newest_file`; where it is not what a finished training ends with, that is said."""
    found = newest_file(directory)
    if found is None:
        return None
    last = directory / "checkpoints" / _NAMES[0]
    if found != last:
        how = "truncated" if last.is_file() else "gone"
        _warn_once(f"{last} is {how}: taking the one of the epoch before, {found.name}")
    elif (directory / CONFIG).is_file() and not is_finished(directory):
        _warn_once(f"the training in {directory} is unfinished: taking its newest checkpoint")
    return found


@functools.lru_cache(maxsize=32)
def _warn_once(text: str) -> None:
    """A configuration is resolved many times, and this is said the first time."""
    log.warning(text)


@functools.lru_cache(maxsize=32)
def _digest(path: Path, changed: int) -> str:
    """The file's digest, computed once for each time of change."""
    return file_digest(path)


def _named(path: Path) -> Path:
    named = path if path.is_file() else _said_to_be_newest(path)
    if named is None:
        raise UserError(
            "Expected `ckpt` to be a checkpoint or the directory of a training, but there is "
            f"none at '{path}'"
        )
    return named.absolute()


def _meant(config: Mapping[str, Any]) -> Path:
    run = config.get("run")
    named = config.get("ckpt") or run
    if named is None:
        return _trained(config)
    path = _named(Path(named))
    if run is not None and not path.is_relative_to(Path(run).absolute()):
        raise UserError(
            f"Expected `ckpt` to be a checkpoint of the training that `run` names, '{run}', but "
            f"got '{named}'; leave one of them out"
        )
    return path


def _trained(config: Mapping[str, Any]) -> Path:
    wanted = training_config(config)
    near = list(_near_by(config, wanted))
    matching = [(directory, keys) for directory, keys in near if set(keys) <= {_LIMIT}]
    finished = [(d, keys) for d, keys in matching if is_finished(d) and newest_file(d)]
    unlimited = [d for d, _ in finished if read_config(d).get("data", {}).get("limit") is None]
    usable = unlimited or [directory for directory, _ in finished]
    if len(usable) == 1:
        found = _said_to_be_newest(usable[0])
        if found is not None:
            return found.absolute()
    if len(usable) > 1:
        limited = "" if unlimited else ", none of them trained on all images"
        raise UserError(
            f"Expected one trained classifier, but {len(usable)} match{limited}; "
            f"choose one: {_commands(usable)}"
        )
    unfinished = [d for d, _ in matching if newest_file(d)]
    if unfinished:
        limit = read_config(unfinished[0]).get("data", {}).get("limit")
        limited = "" if limit is None else f" {_LIMIT}={limit}"
        raise UserError(
            f"Expected a finished training, but the one in {unfinished[0]} is unfinished; "
            f"resume it: {training_command()}{limited}"
        )
    others = sorted((len(keys), d) for d, keys in near if is_finished(d) and newest_file(d))
    hint = f"; already trained: {_commands([d for _, d in others[:_SHOWN]])}" if others else ""
    raise UserError(
        f"Expected a trained classifier for {wanted['data']['name']} and {wanted['model']['name']} "
        f"below '{config['output_root']}', but found none; train one: {training_command()} (or "
        f"pass a checkpoint: ckpt=FILE){hint}"
    )


def _near_by(
    config: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[tuple[Path, list[str]]]:
    """Every training of this data and model, and the settings in which it differs from `wanted`."""
    names = [str(config[group].get("name")) for group in ("data", "model")]
    for path in sorted(
        (Path(config["output_root"]) / "train").joinpath(*names).glob(f"*/{CONFIG}")
    ):
        keys = [key for key, *_ in conflicts(wanted, training_config(read_config(path.parent)))]
        yield path.parent.absolute(), keys


def _commands(directories: list[Path]) -> str:
    return "; ".join(f"ckpt='{directory}'" for directory in directories)


def _require_same_model(
    config: Mapping[str, Any], facts: Mapping[str, Any], path: Path, given: Collection[str]
) -> None:
    """The checkpoint is the truth: what the command line says of the model must not contradict."""
    words = [word for word in given if word == "model" or word.startswith("model.")]
    if not words:
        return
    mine, its = comparable({"model": config["model"]}), comparable({"model": facts["model"]})
    # A word may name a group of keys, or one inside a mapping that is compared as a whole.
    said = [key for key in mine if is_below(key, words) or any(is_below(w, [key]) for w in words)]
    wrong = [key for key in said if key in its and mine[key] != its[key]]
    if wrong:
        key = "model.name" if "model.name" in wrong else wrong[0]
        raise UserError(
            f"Expected `model` to be that of the checkpoint '{path}', whose `{key}` is "
            f"{its[key]!r}, but got {mine[key]!r}; leave `model` out, it comes from `ckpt`"
        )


# Options of Hydra that are followed by a value, as a word of its own.
FLAGS_WITH_VALUE = (
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"),
    *("--cfg", "-c", "--package", "-p"),
)
_KEPT = ("--config-dir", "-cd")
# Overrides of `evaluate`, `explain` and `compare` that say nothing about the training.
_NOT_TRAINING = (
    *(
        "method",
        "view",
        "evaluator",
        "engine",
        "ckpt",
        "run=",
        "images",
        "target",
        "per_class",
        "hydra",
        "overlay",
    ),
    *("overwrite", "trainer.devices", "trainer=", "logger", "data.limit", "split", "maps"),
    *("examples", "resamples", "on_nonfinite", "block_size"),
    *("a=", "b=", "condition=", "alpha=", "tolerance=", "least=", "kind=", "correction="),
)


def training_command() -> str:
    """The command that trains the classifier which this command line asks for."""
    # The task's word is there in a job's own command line, and gone in the one that Hydra reads.
    given = sys.argv[1:]
    words, left = [], iter(given[1:] if given and re.fullmatch(r"[a-z]+", given[0]) else given)
    for word in left:
        if word in FLAGS_WITH_VALUE:
            value = next(left, "")
            words += [word, value] if word in _KEPT else []
        elif word.startswith(_KEPT) or not word.startswith(("-", *_NOT_TRAINING)):
            words.append(word)
    return "python -m saliency_lab train " + " ".join(shlex.quote(word) for word in words)
