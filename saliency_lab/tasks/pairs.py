"""What a comparison compares: pairs of maps, the evaluator that decides, and their differences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.rows.aggregation import conditions_of
from saliency_lab.tasks.components import configured_evaluators, configured_method

DRAWN = "drawn"
"""Column of scores: when the image was drawn, from 0."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared by what.

    Attributes:
        pairs: names of the maps, as the user gave them.
        maps: name to (label of its method, view).
        methods: label to the method with all views of it that are needed.
        label: of the evaluator's files.
        evaluator: whose main score decides.
    """

    pairs: tuple[tuple[str, str], ...]
    maps: Mapping[str, tuple[str, str]]
    methods: Mapping[str, Method]
    label: str
    evaluator: Evaluator

    @property
    def span(self) -> float:
        """How wide the range of the main score is."""
        score = self.evaluator.scores[0]
        return float(score.high or 0) - float(score.low or 0)


def compared(config: Mapping[str, Any]) -> Comparison:
    """The maps, pairs and the evaluator of a configuration.

    Raises:
        UserError: a name that is no single map, lists that do not match, several evaluators, a
            score without a range, or one that is an estimate.
    """
    pairs = paired_names(config["a"], config["b"])
    evaluators = configured_evaluators(config)
    if len(evaluators) != 1:
        raise UserError(
            f"Expected `evaluator` to be the one whose score decides, but got {len(evaluators)}"
        )
    ((label, evaluator),) = evaluators.items()
    score = evaluator.scores[0]
    if score.low is None or score.high is None:
        raise UserError(
            f"Expected `evaluator` to be one whose score has a known range, but {score.name} has "
            "none, and bounds that hold at any time need one"
        )
    if evaluator.estimates:
        raise UserError(
            f"Expected `{evaluator.estimates}` to be null for compare, whose bounds take the score "
            "of an image for exact"
        )
    maps: dict[str, tuple[str, str]] = {}
    methods: dict[str, Method] = {}
    for name, parts in config["methods"].items():
        method = configured_method(parts)
        if len(method.views) != 1:
            raise UserError(
                f"Expected `a` and `b` to name one map each, but {name} has the views "
                f"{', '.join(method.views)}; choose one, for example {name}/{method.views[0]}"
            )
        alike = {**parts, "view": {**parts["view"], "names": None}}
        key = json.dumps(alike, sort_keys=True, default=str)
        known = methods.get(key)
        views = (*(known.views if known else ()), *method.views)
        methods[key] = dataclasses.replace(method, views=tuple(dict.fromkeys(views)))
        maps[name] = key, method.views[0]
    return Comparison(pairs, maps, methods, label, evaluator)


def paired_names(a: str | Sequence[str], b: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of names; one name stands against each of several.

    Raises:
        UserError: lists of different lengths, or a map against itself.
    """
    first = [a] if isinstance(a, str) else list(a)
    second = [b] if isinstance(b, str) else list(b)
    length = max(len(first), len(second))
    first = first * length if len(first) == 1 else first
    second = second * length if len(second) == 1 else second
    if len(first) != len(second) or not first:
        raise UserError(
            f"Expected `a` and `b` to be one name each or lists of one length, but got {a} and {b}"
        )
    pairs = tuple(zip(first, second, strict=True))
    for one, other in pairs:
        if one == other:
            raise UserError(f"Expected `a` and `b` to be two maps, but got {one} twice")
    return pairs


def chosen_condition(
    scores: pd.DataFrame, conditions: Sequence[str], wanted: Sequence[Any], pair: Sequence[Any]
) -> dict[str, str]:
    """The one condition with these values under which both maps of a pair have scores.

    Args:
        scores: rows of images with a column `map` and the conditions as text.
        pair: the two values of `map`.

    Raises:
        UserError: there is none, or more than one.
    """
    known = [
        {tuple(row) for row in scores.loc[scores["map"] == one, list(conditions)].to_numpy()}
        for one in pair
    ]
    common = sorted(set.intersection(*known))
    found = [dict(zip(conditions, values, strict=True)) for values in common]
    fitting = [c for c in found if {str(value) for value in wanted} <= set(c.values())]
    if len(fitting) != 1:
        if not common:
            raise UserError(
                "Expected `a` and `b` to be measured under one condition, but "
                + " and ".join(
                    f"{one} is with {' or '.join(', '.join(values) for values in sorted(its))}"
                    for one, its in zip(pair, known, strict=True)
                )
            )
        texts = [", ".join(f"{key}={value}" for key, value in c.items()) for c in found]
        raise UserError(
            "Expected `condition` to name one condition under which both maps are measured, "
            f"but {list(wanted)} leaves {len(fitting)} of: {'; '.join(texts) or 'none'}"
        )
    return fitting[0]


def paired_differences(
    comparison: Comparison, scores: pd.DataFrame, wanted: Sequence[Any]
) -> tuple[list[NDArray[np.float64]], list[dict[str, str]], bool]:
    """Per pair a − b of the images drawn so far and the condition; whether lower is better.

    An image that a map has no score of counts as no difference: which images those are is only
    known once they are drawn, and the bounds need a number of images that is known beforehand.

    Raises:
        UserError: no single condition fits, or the score has no better side.
    """
    evaluator, score = comparison.evaluator, comparison.evaluator.scores[0]
    names = conditions_of(evaluator)
    conditions, differences = [], []
    for pair in comparison.pairs:
        condition = chosen_condition(scores, names, wanted, pair)
        conditions.append(condition)
        sides = [_values(scores, name, condition, score.name) for name in pair]
        differences.append(np.nan_to_num(sides[0] - sides[1]))
    ways = {evaluator.better(score.name, condition) for condition in conditions}
    if len(ways) != 1 or None in ways:
        raise UserError(
            f"Expected `evaluator` to be one whose score has one better side, but {score.name} "
            "has none"
        )
    return differences, conditions, ways == {"lower"}


def _values(
    scores: pd.DataFrame, name: str, condition: Mapping[str, str], score: str
) -> NDArray[np.float64]:
    """The score of each image in the order of drawing; NaN where there is none."""
    rows = scores[scores["map"] == name]
    for key, value in condition.items():
        rows = rows[rows[key] == value]
    drawn = range(int(scores[DRAWN].max()) + 1)
    return rows.set_index(DRAWN)[score].reindex(drawn).to_numpy(dtype=np.float64)
