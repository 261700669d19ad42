"""Mistakes of the person at the keyboard, as opposed to faults of the program."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake that the user can mend: shown as one line, exit code 2, no traceback."""


class ProcessError(RuntimeError):
    """Another process of the run failed: shown as one line, exit code 1; it said more itself."""


@contextmanager
def in_section(section: str, names: Collection[str]) -> Iterator[None]:
    """Names a setting as the command line does where a function's own error names its argument.

    Args:
        section: `method`, `evaluator.deletion`, …
        names: the settings of that section; errors about anything else pass as they are.
    """
    try:
        yield
    except UserError as error:
        found = re.match(r"Expected (?:one of )?`(\w+)`", str(error))
        if found is None or found[1] not in names:
            raise
        text = re.sub(
            r"`(\w+)`",
            lambda name: f"`{section}.{name[1]}`" if name[1] in names else name[0],
            str(error),
        )
        raise UserError(text) from error


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
