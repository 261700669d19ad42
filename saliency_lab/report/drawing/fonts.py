"""Letters that the usual font of figures lacks, such as those of Chinese class names."""

from __future__ import annotations

import functools
import logging

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

log = logging.getLogger(__name__)

_BOXES = "Last Resort"
"""A font that has a box for every letter there is."""


def take_names_as_they_are(figure: Figure) -> None:
    """Show a class called `cost $x_{$` under this name: nothing in a figure is a formula."""
    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_parse_math(False)


def use_fonts_with_all_letters(figure: Figure) -> None:
    """Let the figure's texts fall back on installed fonts where the usual one lacks a letter."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    letters = frozenset("".join(text.get_text() for text in texts)) - {"\n"}
    families = fallback_families(letters) if not all(map(str.isascii, letters)) else ()
    if families:
        for text in texts:
            text.set_fontfamily([*text.get_fontfamily(), *families])


@functools.cache
def fallback_families(letters: frozenset[str]) -> tuple[str, ...]:
    """Installed families that have those of the letters that the usual font lacks.

    Letters that no font has are named once in the log; figures show a box for them.
    """
    missing = {ord(letter) for letter in letters} - _letters_of(findfont(FontProperties()))
    found = []
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
        if entry.name.startswith(_BOXES):
            continue
        if missing and entry.style == "normal" and _letters_of(entry.fname) & missing:
            found.append(entry.name)
            missing -= _letters_of(entry.fname)
    if missing:
        shown = "".join(chr(code) for code in sorted(missing)[:20])
        log.warning(
            "the figures' texts show boxes for letters that no installed font has: %s%s; "
            "install one that has them, such as Noto Sans CJK",
            shown,
            " …" if len(missing) > len(shown) else "",
        )
    return tuple(dict.fromkeys(found))


@functools.cache
def _letters_of(file: str) -> frozenset[int]:
    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # a font that matplotlib's list has and the disk has not
        return frozenset()
