"""What a run is called: its directory is keyed by what is run, never by when or how."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saliency_lab.errors import UserError

# Keys that change how, where or how loudly a run happens, not what comes out of it.
NOT_IDENTITY = (
    "task",
    "output_root",
    "training",
    "overwrite",
    "continues",
    "hydra",
    "logger",
    "data.workers",
    "data.cache_dir",
    "data.root",
    "data.on_corrupt",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.threads",
    "trainer.progress",
    "trainer.timeout",
    "evaluator.batch_size",
    "engine.frozen_copy",
    "engine.compile",
    "engine.calibration",
    "engine.maps_batch",
    "engine.scores_batch",
)
# Named in the path itself.
IN_PATH = ("data.name", "model.name", "method.name", "view.names", "seed")
# Decides a trained classifier; the rest of an evaluation's configuration does not.
TRAINING = ("data", "model", "optimizer", "scheduler", "trainer", "seed")
PAPER_VIEWS = ("original", "positive", "negative", "active", "inactive")
LONGEST_NAME = 120


def decides(override: str) -> bool:
    """Whether a word of a command line (`key=value`) changes what comes out of a run.

    The choice of a trainer does not: what it sets that matters is a key of its own.
    """
    key = override.lstrip("+~").split("=")[0]
    return key != "trainer" and not _belongs(key, NOT_IDENTITY)


def differences(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of `config` that are not the same in `defaults`, by dotted path, sorted."""
    mine, theirs = _leaves(config), _leaves(defaults)
    return {key: mine[key] for key in sorted(mine) if key not in theirs or theirs[key] != mine[key]}


def conflicts(config: Mapping[str, Any], stored: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys that decide the outcome and have other values in a stored configuration.

    Keys that only one of the two has came or went with a version of the program, and are no
    conflict. Each entry is (key, stored value, value now).
    """
    now, ignored = _leaves(config), _ignored(config)
    return [
        (key, old, now[key])
        for key, old in sorted(_leaves(stored).items())
        if key in now and now[key] != old and not _belongs(key, ignored)
    ]


def run_directory(
    config: Mapping[str, Any], defaults: Mapping[str, Any], chosen: Mapping[str, str] | None = None
) -> Path:
    """The directory of a run, relative to the output root.

    `task/data/model[/method]/seed-S[+group-choice…][+key-value…]`, where the keys are those that
    differ from the defaults of the same group choices; a long list is cut and a digest of all of
    it appended.

    Args:
        config: the resolved configuration as plain containers.
        defaults: the same group choices with no value changed.
        chosen: group choices that are not the usual ones and that the path does not name.
    """
    parts = [str(config["task"])]
    parts += [_named(config, group) for group in ("data", "model") if group in config]
    if "method" in config:
        parts.append(method_label(config))
    rest = {
        key: value
        for key, value in differences(config, defaults).items()
        if key not in IN_PATH and not _belongs(key, _ignored(config))
    }
    return Path(
        *[_safe(part) for part in parts],
        _joined(config["seed"], {**dict(sorted((chosen or {}).items())), **rest}),
    )


def _named(config: Mapping[str, Any], group: str) -> str:
    name = config[group].get("name")
    if name in (None, "???"):
        raise UserError(f"Expected `{group}.name` to be given, but it is missing")
    return str(name)


def training_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides which trained classifier is meant."""
    return {"task": "train", **{key: config[key] for key in TRAINING}}


def method_label(config: Mapping[str, Any]) -> str:
    """`active` for the gradient's view, `smoothgrad-active` for another source's."""
    method, names = config["method"]["name"], config["view"]["names"]
    if tuple(names) == PAPER_VIEWS:
        view = "paper"
    else:
        view = names if isinstance(names, str) else "+".join(names)
    return view if method == "gradient" else f"{method}-{view}"


def _ignored(config: Mapping[str, Any]) -> Sequence[str]:
    # A tree of class folders has no identity but its place; the named data sets do.
    if config.get("data", {}).get("name") == "folder":
        return [key for key in NOT_IDENTITY if key != "data.root"]
    return NOT_IDENTITY


def _belongs(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def _joined(seed: Any, rest: Mapping[str, Any]) -> str:
    name = "+".join([f"seed-{seed}", *(f"{key}-{_text(value)}" for key, value in rest.items())])
    safe = _safe(name)
    if safe == name and len(name) <= LONGEST_NAME:
        return name
    # What was cut or replaced would otherwise make two runs one.
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{safe[: LONGEST_NAME - 11]}-{digest}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "_".join(_text(item) for item in value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _safe(name: str) -> str:
    # Kept: what shells, file systems and Hydra's override grammar (`ckpt=…`) take without quotes.
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in name)


def _leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found.update(_leaves(value, f"{prefix}.{key}" if prefix else str(key)))
    return found
