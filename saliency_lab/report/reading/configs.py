"""What a run's resolved config says about its classifier and its maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saliency_lab.config.identity import NOT_IDENTITY, TRAINING, is_below, leaves

# Seeds, and what the number of images tells already.
_NOT_RECIPE = ("seed", "data.seed", "data.limit", "data.classes")
_NOT_SETTINGS = ("method.name", "method.control", "view.name")
DEGRADED = "saliency_lab.attribution.methods.degraded.degraded"
_INVERTED = "saliency_lab.attribution.methods.controls.inverted"


def is_pretrained(config: Mapping[str, Any]) -> bool:
    """Whether the classifier started from weights of another training."""
    model = config.get("model")
    return isinstance(model, dict) and bool(model.get("pretrained") or model.get("weights"))


def recipe_of(config: Mapping[str, Any]) -> dict[str, str]:
    """How the classifier was trained, but for the seed: flat, "trainer.max_epochs": "30"."""
    recipe = _flat({name: config[name] for name in TRAINING if name in config})
    ignored = (*NOT_IDENTITY, *_NOT_RECIPE)
    return {name: value for name, value in recipe.items() if not is_below(name, ignored)}


def evaluator_settings(settings: Mapping[str, Any], selects: Sequence[str]) -> dict[str, str]:
    """What decides an evaluator's numbers: its settings but for those that choose conditions.

    One that is null is left out: an evaluator that has got a new setting since a run was made is
    the same with it off.
    """
    flat = _flat({name: value for name, value in settings.items() if value is not None})
    return {name: value for name, value in flat.items() if name not in selects}


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """What shapes the maps beside classifier and images: flat, "method.samples": "20".

    Empty where the config names no method.
    """
    if not isinstance(config.get("method"), dict):
        return {}
    groups = {name: config.get(name) or {} for name in ("method", "view")}
    precision = str((config.get("trainer") or {}).get("precision", "32-true"))
    # Mixed precision is of training steps alone: maps and curves are the same, bit for bit.
    groups["trainer"] = {"precision": "32-true" if precision.endswith("-mixed") else precision}
    engine = config.get("engine") or {}
    groups["engine"] = {"precision": "fp32", "screen": "off"} | {
        name: value for name, value in engine.items() if name in ("precision", "screen")
    }
    settings = _flat(groups)
    return {name: value for name, value in settings.items() if not name.startswith(_NOT_SETTINGS)}


def asks_classifier(settings: Mapping[str, str]) -> bool:
    """Whether a control is made of the classifier's own field, by the settings of its maps.

    Maps with less than all noise in them and inverted ones are: one that is as good as they are
    may know as much as the classifier has to tell.
    """
    source = settings.get("method._target_")
    if source == DEGRADED:
        return float(settings.get("method.share", 0.5)) < 1
    return source == _INVERTED


def agree(mine: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether both say the same; a key that only one has came or went with a version."""
    return all(other.get(name, value) == value for name, value in mine.items())


def difference_text(mine: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    """ "samples=20, noise=0.1": the values of `mine` that not all of the others share."""
    names = dict.fromkeys([*mine, *(name for other in others for name in other)])
    differing = (
        name for name in names if any(other.get(name) != mine.get(name) for other in others)
    )
    return ", ".join(_said(name, mine.get(name, "default")) for name in differing)


def _said(name: str, value: str) -> str:
    """ "samples=20" of "method.samples", "base=lrp" of "method.base._target_"."""
    short = name.partition(".")[2] or name
    if short.endswith("_target_"):
        short = short.removesuffix("_target_").strip(".") or "function"
        value = value.rpartition(".")[2]
    return f"{short}={value}"


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: "none" if value is None else str(value) for name, value in leaves(values).items()}
