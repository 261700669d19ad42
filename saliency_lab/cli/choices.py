"""Groups of which one choice is made: Hydra would merge several, and the last would win."""

from __future__ import annotations

import re
from collections.abc import Iterable

from saliency_lab.errors import UserError

_SINGLE = ("data", "model", "method", "optimizer", "scheduler", "trainer", "logger", "engine")
_LISTS = re.compile(r"\[[^\[\]]*\](,\[[^\[\]]*\])*")
_OF_SEVERAL = ("all", "five")


def single_choices(words: Iterable[str]) -> list[str]:
    """The words with `view=[active,original]` as the two views of one map source.

    Raises:
        UserError: a list for a group of which there is one, or a view of several views in a list.
    """
    return [_checked(word) for word in words]


def _checked(word: str) -> str:
    key, _, value = word.partition("=")
    if word.startswith("-") or not _LISTS.fullmatch(value):
        return word
    if key in _SINGLE:
        choices = value.strip("[]")
        raise UserError(
            f"Expected `{key}` to be one choice, but got the list {value}; a sweep takes them in "
            f"turn: -m {key}={choices}"
        )
    if key != "view":
        return word
    named = re.findall(r"[^\[\],\s]+", value)
    if several := [name for name in named if name in _OF_SEVERAL]:
        raise UserError(
            f"Expected `view` to be a choice or a list of single views, but got {value}; "
            f"view={several[0]} has several views by itself"
        )
    return f"view.names={value}"
