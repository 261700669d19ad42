"""Words of earlier versions, which keep working on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What an evaluation is asked for, whichever evaluators measure it.
_OF_THE_RUN = {
    "split": "split",
    "batch_size": "block_size",
    "on_nonfinite": "on_nonfinite",
    "examples": "examples",
    "resamples": "resamples",
}
_VALUES = {
    "method": {"paper": "five_views"},
    "view": {"paper": "five"},
    "evaluator.deletion.protocol": {"paper": "threshold"},
    "evaluator.deletion.fills": {"paper": "by_view"},
}
_PREFIXES = {"experiment": ("paper/", "llorente2023/")}
_DELETION = ("protocol", "modes", "fills", "fractions")


def renamed(words: Iterable[str]) -> list[str]:
    """The words of a command line with today's names: `method=paper` is `method=five_views`."""
    return [_renamed(word) if _is_override(word) else word for word in words]


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _renamed(word: str) -> str:
    key, _, value = word.partition("=")
    start = key[: len(key) - len(key.lstrip("+~"))]
    key = _key(key.lstrip("+~"))
    if key in _PREFIXES:
        old, new = _PREFIXES[key]
        value = ",".join(
            new + part.removeprefix(old) if part.startswith(old) else part
            for part in value.split(",")
        )
    for old, new in _VALUES.get(key, {}).items():
        # A value of its own, alone or in a sweep; not inside a list or a longer word.
        value = re.sub(rf"(?:(?<=,)|^){old}(?=,|$)", new, value)
    return f"{start}{key}={value}"


def _key(key: str) -> str:
    group, dot, name = key.partition(".")
    if group != "evaluator" or not dot:
        return key
    if name in _OF_THE_RUN:
        return _OF_THE_RUN[name]
    return f"evaluator.deletion.{name}" if name in _DELETION else key
