"""What shapes a run's maps beside classifier and images, and names that tell settings apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.reading.configs import difference_text
from saliency_lab.report.reading.records import EvaluationRun

Signature = tuple[tuple[str, str], ...]


class Name(NamedTuple):
    """What a map is called: `key` in the page's data, `label` to the reader.

    `variant` counts the settings of the same method and view, from 0.
    """

    key: str
    label: str
    variant: int


def signature_of(run: EvaluationRun) -> Signature:
    """The run's settings in a form that can be compared."""
    return tuple(sorted(run.settings.items()))


def leading_first(runs: Sequence[EvaluationRun]) -> list[EvaluationRun]:
    """Settings nearest to the defaults first, and of equal settings the run with more views."""
    changes: dict[Signature, int] = {}
    for run in runs:
        mine = signature_of(run)
        # A run's directory is named for what differs from the defaults.
        count = len(re.findall("[+,]", run.name.rpartition("/")[2]))
        changes[mine] = min(count, changes.get(mine, count))
    return sorted(
        runs,
        key=lambda run: (changes[signature_of(run)], -len(_maps(run))),
    )


def map_names(runs: Sequence[EvaluationRun]) -> dict[tuple[str, str, Signature], Name]:
    """A name for each method, view and settings; over a whole report, so that it means one thing.

    The settings nearest to the defaults keep the plain key, "smoothgrad/original". Where a method
    was run with several, every label says what differs: "smoothgrad (samples=20)".
    """
    found: dict[tuple[str, str], dict[Signature, None]] = {}
    for run in leading_first(runs):
        for pair in _maps(run):
            found.setdefault(pair, {})[signature_of(run)] = None
    names = {}
    for (method, view), signatures in found.items():
        first = next(iter(signatures))
        for variant, mine in enumerate(signatures):
            change = difference_text(dict(mine), [dict(first)])
            key = f"{method}/{view}" + (f" ({change})" if change else "")
            told = difference_text(dict(mine), [dict(other) for other in signatures])
            label = label_of(method, view) + (f" ({told})" if told else "")
            names[method, view, mine] = Name(key, label, variant)
    return names


def _maps(run: EvaluationRun) -> list[tuple[str, str]]:
    return list(dict.fromkeys((mean.method, mean.view) for mean in run.found.means))
