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
