"""The components of a configuration, checked all at once."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from saliency_lab.config.binding import bound_arguments, built
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.context import Method
from saliency_lab.tasks.foreign_maps import require_file
from saliency_lab.tracking.tracking import Tracking
from saliency_lab.training.components import GIVEN, callback_components

# Groups to which the program passes nothing by itself.
_COMPLETE = ("logger", "engine")


def checked(config: Mapping[str, Any]) -> None:
    """Hold every component's arguments against its signature, before anything heavy starts.

    Raises:
        UserError: an unknown key or an impossible value, or there is no classifier to look at.
    """
    if config.get("seed", 0) < 0:
        raise UserError(f"Expected `seed` to be at least 0, but got {config['seed']}")
    for group, given in {**GIVEN, **dict.fromkeys(_COMPLETE, ())}.items():
        if group in config:
            bound_arguments(config[group], group, given)
    for key, component in callback_components(config).items():
        bound_arguments(component, key)
    missing = config.get("classifier", {}).get("error")
    if missing is not None:
        raise UserError(missing)


def tracker(config: Mapping[str, Any]) -> Tracking:
    """Where the run is recorded beside its files."""
    tracking = built(config["logger"], "logger")
    if not isinstance(tracking, Tracking):
        raise UserError(
            f"Expected `logger._target_` to give a Tracking, but got {type(tracking).__name__}"
        )
    return tracking


def configured_method(config: Mapping[str, Any]) -> Method:
    """The method and views of a configuration, settings bound; refuses views it cannot give."""
    target, arguments = bound_arguments(
        config["method"], "method", ("model", "images", "targets", "generator")
    )
    source = functools.partial(target, **arguments)
    require_file(source, str(config["method"]["name"]))
    return Method.of(config["method"]["name"], source, config["view"])


def configured_evaluators(config: Mapping[str, Any]) -> dict[str, Evaluator]:
    """The evaluators of a configuration by their labels.

    Raises:
        UserError: none is chosen, or one's settings or target are wrong.
    """
    found: dict[str, Evaluator] = {}
    for name, component in config["evaluator"].items():
        if not isinstance(component, dict):
            raise UserError(
                f"Expected `evaluator` to hold one section per evaluator, but got `{name}` in it; "
                "a yaml of conf/evaluator begins with the line: # @package evaluator.NAME"
            )
        evaluator = built(component, f"evaluator.{name}")
        if not isinstance(evaluator, Evaluator):
            raise UserError(
                f"Expected `evaluator.{name}._target_` to give an Evaluator, but got "
                f"{type(evaluator).__name__}"
            )
        found[config["labels"][name]] = evaluator
    if not found:
        raise UserError("Expected `evaluator` to name at least one evaluator, but got none")
    return found
