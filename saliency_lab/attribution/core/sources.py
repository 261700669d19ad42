"""How a source is called, a person's own function included."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError

Source = Callable[..., Any]
"""`(model, images, targets)` → one map per target, or `(model, images)` → a `ClassField`."""


def source_name(source: Source) -> str:
    """The name to call a source by in messages."""
    inner = getattr(source, "func", source)
    return getattr(inner, "__name__", type(inner).__name__)


def source_parameters(source: Source) -> Mapping[str, inspect.Parameter]:
    """The parameters of a source by name.

    Raises:
        UserError: it does not say them, as some functions written in C do not.
    """
    try:
        return inspect.signature(source).parameters
    except (TypeError, ValueError) as error:
        raise UserError(
            "Expected a method to be a function of (model, images) or (model, images, targets), "
            f"but got {source_name(source)}, which does not say what it takes."
        ) from error


def source_output(
    source: Source,
    model: nn.Module,
    images: Tensor,
    *targets: Tensor,
    generator: SampleGenerator | None,
) -> Any:
    """What a source gives; `generator` is passed to those that take one."""
    parameters = source_parameters(source)
    takes = "generator" in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    given = {"generator": generator} if takes else {}
    positional = [
        parameter
        for parameter in parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    if len(positional) < 2 + len(targets) and not several:
        raise UserError(
            "Expected a method to be a function of (model, images) or (model, images, targets), "
            f"but got {source_name(source)}, which takes ({', '.join(parameters)})."
        )
    return source(model, images, *targets, **given)


def stored_only(source: Source) -> Source:
    """Marks a source that has the maps of some images and can make none of others."""
    source.__dict__["stored_only"] = True
    return source


def recomputes(source: Source) -> bool:
    """Whether a source can be asked for maps of any image and model; a file of maps cannot."""
    return not getattr(getattr(source, "func", source), "stored_only", False)


def takes_targets(source: Source) -> bool:
    """Whether a source gives one map per target (no views) rather than a per-class field."""
    return "targets" in source_parameters(source)


def reads_layers(source: Source) -> bool:
    """Whether a source needs the model itself, rather than a copy with the same gradients."""
    if not getattr(getattr(source, "func", source), "input_gradients_only", False):
        return True
    wrapped = getattr(source, "keywords", {}).get("base")
    return wrapped is not None and reads_layers(wrapped)


def expect_field_source(base: Source) -> None:
    """Refuse, as the `base` of a method, a source without a signed field per class.

    Raises:
        UserError: it gives one map per target.
    """
    if takes_targets(base):
        raise UserError(
            "Expected `base` to be a source of a signed field per class, but got "
            f"{source_name(base)}, which gives one map per target."
        )
