"""Benchmarks are run by hand: what they name inside texts must still be there."""

from __future__ import annotations

import importlib
import re

from benchmarks import start


def test_the_process_that_times_the_first_batch_names_what_is_there() -> None:
    text = start._UNTIL_FIRST_BATCH
    named = re.findall(r"from (saliency_lab[\w.]*) import (\w+)", text)
    assert len(named) == 3
    for module, name in named:
        found = getattr(importlib.import_module(module), name)
        for method in re.findall(rf"{name}\.(\w+) = ", text):
            assert callable(getattr(found, method))


def test_the_comparisons_of_conformance_name_what_is_there() -> None:
    """Peers are imported where they are compared, so none is needed for this."""
    found = importlib.import_module("benchmarks.conformance.__main__")
    assert len(set(found.COMPARISONS)) == len(found.COMPARISONS) == 14
    lines = [
        found.Line("a", "b", 0.5, None, None, 2e-7, ""),
        found.Line("a", "b", None, 1, 1, 0, "c"),
    ]
    assert found.table(lines)[2:] == [
        "| a | b | 0.5000 | – | – | 2e-07 | – |",
        "| a | b | – | 1.0000 | 1.0000 | 0e+00 | c |",
    ]
