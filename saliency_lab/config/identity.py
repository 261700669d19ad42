"""What a run is called: its directory is keyed by what decides its numbers, never by when or how.

Two runs share a directory if and only if their numbers must be equal. What decides them:

- a training: its settings (data, model, optimizer, scheduler, trainer, seed);
- an evaluation: the classifier, by the digest of its checkpoint (or of what a network that was
  trained elsewhere is made of), the images (data set, classes, limit, split), the attribution
  method with its views, seed and precision;
- both: the text of components that lie outside this package, the content of files that settings
  name, and `NUMBERS`.

An evaluator's settings decide its own rows alone, so they are part of its label in the run's
directory (`evaluator_label`), not of the directory's name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saliency_lab.config.content import DIGITS
from saliency_lab.errors import UserError

NUMBERS = 5
"""Raised with any version that gives other maps or scores for the same settings.

Trainings are not concerned: their networks have not changed since the first version, but for
networks of one's own, which CHANGELOG.md says to train anew.
"""

# Keys that change how, where or how loudly a run happens, not what comes out of it.
NOT_IDENTITY = (
    "task",
    "output_root",
    "overwrite",
    "continues",
    "hydra",
    "logger",
    "ckpt",
    "run",
    "classifier",
    "labels",
    "evaluator",
    # When a comparison stops: it draws on from where it was.
    "alpha",
    "tolerance",
    "least",
    "kind",
    "correction",
    "examples",
    "overlay",
    "block_size",
    "maps",
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
    "engine.frozen_copy",
    "engine.compile",
    "engine.calibration",
    "engine.maps_batch",
    "engine.scores_batch",
)
# Data sets that are the same images wherever they lie.
_NAMED_DATA = ("shapes", "cifar10", "imagenette", "oxford_pet", "cats_dogs", "birds")
# What the classifier's digest stands for in an evaluation.
_OF_THE_CLASSIFIER = (
    "model",
    "optimizer",
    "scheduler",
    "trainer",
    "callback",
    "data.augment",
    "data.batch_size",
    "data.validation",
)
DECIDES_TRAINING = ("precision", "gradient_clip_val", "sync_batchnorm", "batch")
"""Of a trainer: what decides the outcome of a training beside its length."""
_WITH_NAMES = ("data", "model", "method")
# Named in the path itself.
IN_PATH = ("data.name", "model.name", "method.name", "view.names", "seed")
NO_CHECKPOINT = "none"
"""The word of `ckpt` for a network that was trained elsewhere."""
# Decides a trained classifier; the rest of an evaluation's configuration does not.
TRAINING = ("data", "model", "optimizer", "scheduler", "trainer", "callback", "seed")
# Keys that a later version has brought, and the value that all earlier runs were made with.
CAME_LATER: Mapping[str, Any] = {"model.zero_init_last": None, "method.stratified": False}
# Mappings whose keys are whatever their component takes: they are the same only as wholes, and
# none at all is the same as an empty one.
_WHOLE = ("model.arguments", "callback")
ALL_VIEWS = ("original", "positive", "negative", "active", "inactive")
LONGEST_NAME = 200
_FILE_METHOD = "saliency_lab.attribution.methods.file.file_maps"
_GAD = "saliency_lab.attribution.methods.gad.gad"


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one mapping with dotted keys: `trainer.max_epochs`."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found.update(leaves(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def with_text_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with numbers that are names as text: method.name=2024, or nan."""
    found = dict(config)
    for group in _WITH_NAMES:
        component = config.get(group)
        if isinstance(component, Mapping) and isinstance(component.get("name"), int | float):
            found[group] = {**component, "name": str(component["name"])}
    return found


def is_below(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key is one of these or lies below one of them."""
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def decides(override: str) -> bool:
    """Whether a word of a command line (`key=value`) changes what comes out of a run.

    The choice of a trainer does not: what it sets that matters is a key of its own.
    """
    key = override.lstrip("+~").split("=")[0]
    return key != "trainer" and not is_below(key, NOT_IDENTITY)


def differences(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of `config` that are not the same in `defaults`, by dotted path, sorted."""
    mine, theirs = leaves(config), leaves(defaults)
    return {key: mine[key] for key in sorted(mine) if key not in theirs or theirs[key] != mine[key]}


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a configuration in the form in which two of them can be compared key by key."""
    config = with_text_names(config)
    found = {key: value for key, value in leaves(config).items() if not is_below(key, _WHOLE)}
    for key in _WHOLE:
        group, _, inner = key.partition(".")
        value = config.get(group)
        if inner:
            value = value.get(inner) if isinstance(value, Mapping) else None
        found[key] = value or None
    return found


def conflicts(config: Mapping[str, Any], stored: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys that decide the outcome and have other values in a stored configuration.

    Keys that only one of the two has came or went with a version of the program, and are no
    conflict, unless it is known what earlier runs were made with (`CAME_LATER`); but what lies
    outside the settings (`sources`) must be the same on both sides. Each
    entry is (key, stored value, value now).
    """
    now, before = comparable(config), {**CAME_LATER, **comparable(stored)}
    ignored = not_identity(config)
    found = [
        (key, old, now[key])
        for key, old in sorted(before.items())
        if key in now and now[key] != old and not is_below(key, ignored)
    ]
    outside = sorted({key for key in {*now, *before} if key.startswith("sources.")})
    return found + [
        (key, before.get(key), now.get(key)) for key in outside if (key in now) != (key in before)
    ]


def run_directory(
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    chosen: Mapping[str, str] | None = None,
) -> Path:
    """The directory of a run, relative to the output root.

    `task/data/model[/method]/seed-S[+classifier-DIGEST][+group-choice…][+key-value…]`, where the
    keys are those that decide and differ from the defaults of the same group choices; a long list
    is cut and a digest of all of it appended.

    Args:
        config: the resolved configuration as plain containers. Of an evaluation, `model` is the
            classifier's own and `classifier.sha256` its digest. Of a comparison, `labels` are
            those of its evaluator.
        defaults: the same group choices with no value changed.
        chosen: group choices that are not the usual ones and that the path does not name.
    """
    parts = [str(config["task"])]
    parts += [_named(config, group) for group in ("data", "model") if group in config]
    if "method" in config:
        _named(config, "method")
        parts.append(method_label(config))
    rest: dict[str, Any] = {}
    if "classifier" in config:
        rest["classifier"] = str(config["classifier"]["sha256"])[:DIGITS]
    if config["task"] == "compare" and list(config.get("labels", {}).values()) not in (
        [],
        ["deletion"],
    ):
        rest["evaluator"] = "_".join(config["labels"].values())
    rest |= dict(sorted((chosen or {}).items()))
    rest |= {
        key: value
        for key, value in differences(config, defaults).items()
        if key not in IN_PATH and not is_below(key, not_identity(config))
    }
    return Path(*[_safe(part) for part in parts], _joined(f"seed-{config['seed']}", rest))


def evaluator_label(
    name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any], source: str | None
) -> str:
    """What an evaluator's files in a run's directory are called: its name and what is not default.

    Args:
        name: of its yaml.
        settings: its component.
        defaults: the component with no value changed.
        source: digest of its text where it lies outside this package, else None.
    """
    rest = differences(settings, defaults)
    return _joined(_safe(name), rest | ({} if source is None else {"source": source}))


def training_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides which trained classifier is meant."""
    return {"task": "train", **{key: config[key] for key in TRAINING if key in config}}


def method_label(config: Mapping[str, Any]) -> str:
    """`active` for the gradient's view, `smoothgrad-active` for another method's."""
    method, names = str(config["method"]["name"]), config["view"]["names"]
    if names == "all" or tuple(names) == ALL_VIEWS:
        view = "all"
    else:
        view = names if isinstance(names, str) else "+".join(names)
    return view if method == "gradient" else f"{method}-{view}"


def _named(config: Mapping[str, Any], group: str) -> str:
    name = config[group].get("name")
    if name in (None, "???"):
        raise UserError(f"Expected `{group}.name` to be given, but it is missing")
    if not isinstance(name, str | int | float):
        raise UserError(f"Expected `{group}.name` to be text, but got {name!r}")
    return str(name)


def not_identity(config: Mapping[str, Any]) -> Sequence[str]:
    """The keys of this configuration, or groups of them, that decide nothing of what comes out."""
    ignored: list[str] = list(NOT_IDENTITY)
    if config.get("data", {}).get("name") not in _NAMED_DATA:
        # A person's own files have no identity but their place; the named data sets do.
        ignored.remove("data.root")
    if config.get("trainer", {}).get("batch") == "per_process":
        # As many images per step as processes take together.
        ignored = [key for key in ignored if key not in ("trainer.devices", "trainer.num_nodes")]
    method = str(config.get("method", {}).get("_target_"))
    if "classifier" in config:
        ignored += _OF_THE_CLASSIFIER
        if method == _GAD:
            # This run's trainer trains the support models, for as long as the method says.
            ignored.remove("trainer")
            ignored += ["trainer.max_epochs", "trainer.deterministic"]
    if method == _FILE_METHOD:
        # The content of these files counts (`sources`), not where they lie.
        ignored += ["method.maps", "method.ids"]
    return ignored


def _joined(name: str, rest: Mapping[str, Any]) -> str:
    full = "+".join([name, *(f"{key}-{_text(value)}" for key, value in rest.items())])
    if len(full) <= LONGEST_NAME and all(_is_plain(value) for value in rest.values()):
        return full
    # What was cut or replaced would otherwise make two runs one.
    told = json.dumps([name, _whole(dict(rest))], sort_keys=True, default=str)
    digest = hashlib.sha256(told.encode()).hexdigest()[:DIGITS]
    return f"{_safe(full)[: LONGEST_NAME - DIGITS - 1]}-{digest}"


_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.]*|[0-9a-f]{10}")


def _is_plain(value: Any) -> bool:
    """Whether a value's text can be that of no other value."""
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value)) and value not in ("null", "true", "false")
    return value is None or isinstance(value, bool | int | float)


def _whole(value: Any) -> Any:
    """The value with every whole number an int: 1 and 1.0 are one number."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "_".join(_text(item) for item in value)
    value = _whole(value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _safe(name: str) -> str:
    # Kept: what shells, file systems and Hydra's override grammar (`ckpt=…`) take without quotes.
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in name)
