"""The components of a configuration, checked all at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saliency_lab.config.binding import bound_arguments, built
from saliency_lab.errors import UserError
from saliency_lab.tracking.tracking import Tracking
from saliency_lab.training.components import GIVEN, callback_components

# Groups to which the program passes nothing by itself.
_COMPLETE = ("logger", "engine")


def checked(config: Mapping[str, Any]) -> None:
    """Hold every component's arguments against its signature, before anything heavy starts.

    Raises:
        UserError: an unknown key or an impossible value, or there is no classifier to look at.
    """
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
