"""Mistakes of the person at the keyboard, as opposed to faults of the program."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: shown as one line, exit code 2, no traceback."""


class ProcessError(RuntimeError):
    """Another process of the run failed: shown as one line, exit code 1; it said more itself."""


def unknown_choice(key: str, value: object, options: Iterable[object]) -> UserError:
    """The error for a value that is none of `options`; a close misspelling is suggested."""
    names = [str(option) for option in options]
    return UserError(
        f"Expected `{key}` to be one of {', '.join(names)}, but got '{value}'."
        f"{_suggestion(str(value), names)}"
    )


def unknown_key(key: str, options: Iterable[object]) -> UserError:
    """The error for a key (dotted path) that does not exist; `options` are its siblings' names."""
    names = sorted(str(option) for option in options)
    parent, _, name = key.rpartition(".")
    if not names:
        return UserError(
            f"Unknown key `{key}`: `{parent}` has none of its own; give it as a whole: "
            f"'{parent}={{{name}: VALUE}}'"
        )
    return UserError(
        f"Unknown key `{key}`: expected one of {', '.join(names)}.{_suggestion(name, names)}"
    )


def _suggestion(value: str, names: list[str]) -> str:
    close = difflib.get_close_matches(value, names, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
