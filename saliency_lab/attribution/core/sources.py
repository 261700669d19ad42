"""How a source is called, a person's own function included."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError


def source_name(source: Callable[..., Any]) -> str:
    """The name to call a source by in messages."""
    inner = getattr(source, "func", source)
    return getattr(inner, "__name__", type(inner).__name__)


def source_parameters(source: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
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
    source: Callable[..., Any],
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
    return source(model, images, *targets, **given)
