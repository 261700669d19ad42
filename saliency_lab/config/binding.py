"""Components held against the signatures they name, before anything heavy starts."""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from saliency_lab.errors import UserError, unknown_choice, unknown_key

# Keys of a component that Hydra or the tasks read, and that are no arguments.
RESERVED = frozenset({"_target_", "_partial_", "_convert_", "_recursive_", "control"})


def located(target: str, key: str) -> Callable[..., Any]:
    """The object that a dotted path names.

    Raises:
        UserError: nothing can be imported from that path.
    """
    module_name, _, name = target.rpartition(".")
    try:
        return typing.cast(Callable[..., Any], getattr(importlib.import_module(module_name), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"Expected `{key}._target_` to name something importable, but got '{target}': {error}"
        ) from error


def named_parameters(target: Callable[..., Any], key: str) -> dict[str, inspect.Parameter]:
    """The parameters of a target by name.

    Raises:
        UserError: it is nothing that can be called, or says nothing of its parameters.
    """
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"Expected `{key}._target_` to name a function or class with named parameters, but "
            f"got {target!r}"
        ) from error


def bound_arguments(
    component: Mapping[str, Any], key: str, given: tuple[str, ...] = ()
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The target of a component and its arguments, checked and converted to their types.

    Args:
        component: a mapping with `_target_` and arguments; plain containers, not DictConfig.
        key: where the component lies in the configuration, for messages.
        given: arguments that the program passes itself; the component may not name them.

    Returns:
        The callable, and the keyword arguments as the annotations say. Nested components become
        callables: `functools.partial` where they carry `_partial_: true`, else the built object.

    Raises:
        UserError: an unknown or missing argument, or a value that its annotation does not allow.
    """
    if "_target_" not in component:
        raise UserError(f"Expected `{key}` to have a `_target_`, but got {dict(component)!r}")
    target = located(str(component["_target_"]), key)
    function = target.__init__ if inspect.isclass(target) else target
    parameters = named_parameters(target, key)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [
        name
        for name, p in parameters.items()
        if name not in given and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    hints = typing.get_type_hints(function, include_extras=True)
    arguments = {name: value for name, value in component.items() if name not in RESERVED}
    if "name" not in names:
        arguments.pop("name", None)
    for name, value in arguments.items():
        if name not in names and not open_ended:
            raise unknown_key(f"{key}.{name}", names)
        arguments[name] = _checked(value, hints.get(name, Any), f"{key}.{name}")
    # What `_partial_` leaves open is given by whoever calls it.
    required = [] if component.get("_partial_") else names
    for name in required:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise UserError(f"Expected `{key}.{name}` to be given, but it is missing")
    return target, arguments


def built(component: Mapping[str, Any], key: str, **given: Any) -> Any:
    """The object that a component describes: its target called with checked arguments."""
    target, arguments = bound_arguments(component, key, tuple(given))
    return target(**arguments, **given)


def _checked(value: Any, annotation: Any, key: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        target, arguments = bound_arguments(value, key)
        partial = functools.partial(target, **arguments)
        return partial if value.get("_partial_") else partial()
    try:
        adapter = _adapter(annotation)
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "literal_error" and value is not None:
            raise unknown_choice(key, value, _literals(annotation)) from error
        raise UserError(
            f"Expected `{key}` to be {requirement(annotation)}, but got {value!r}"
        ) from error


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    # Strict about bool and str for numbers would refuse 1 for 1.0, so lax mode; arbitrary types
    # (a torch.nn.Module argument) are checked by isinstance.
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def _literals(annotation: Any) -> list[Any]:
    found: list[Any] = []
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    for part in typing.get_args(annotation):
        found.extend(_literals(part))
    return found


_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Path: "a path",
}
_LIMITS = {Gt: "greater than", Ge: "at least", Lt: "less than", Le: "at most"}


def requirement(annotation: Any) -> str:
    """What an annotation asks for, in words: `int > 0 or "auto"` is an integer greater than 0, or
    auto.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = [
            f"{_LIMITS[type(limit)]} {getattr(limit, type(limit).__name__.lower())}"
            for limit in parts[1:]
            if type(limit) in _LIMITS
        ]
        return " ".join([requirement(parts[0]), " and ".join(limits)]).strip()
    if origin is typing.Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(str(part) for part in parts)
    if origin in (types.UnionType, typing.Union):
        return ", or ".join(requirement(part) for part in parts)
    if origin is tuple and Ellipsis not in parts:
        return f"a list of {len(parts)}: {', '.join(requirement(part) for part in parts)}"
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list, each {requirement(parts[0])}"
    if annotation in _NAMES:
        return _NAMES[annotation]
    return getattr(annotation, "__name__", str(annotation))
