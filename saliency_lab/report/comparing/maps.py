"""The maps of a panel, and where its numbers are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from saliency_lab.evaluation.rows.format import (
    Comparison,
    EvaluationSummary,
    EvaluatorSummary,
    Mean,
)
from saliency_lab.report.drawing.axes import Axis
from saliency_lab.report.drawing.figures import condition_text, ordered_conditions
from saliency_lab.report.drawing.palette import Style
from saliency_lab.report.reading.configs import agree, asks_classifier
from saliency_lab.report.reading.records import EvaluationRun
from saliency_lab.reproductions.published import (
    PUBLISHED_FRACTIONS,
    PUBLISHED_SETTINGS,
    Published,
    published,
)

Condition = tuple[str, ...]
"""A value for each of the evaluator's conditions, in its order."""
Place = tuple[str, Condition]
"""Key of a map, condition."""

REFERENCE = ("gradient", "original")


@dataclass(frozen=True)
class PanelMap:
    """One method and view of a panel; `key` is unique in the report, `run` holds its files."""

    key: str
    method: str
    view: str
    style: Style
    run: EvaluationRun

    @property
    def label(self) -> str:
        return self.style.label

    @property
    def control(self) -> bool:
        """Whether its method is no explanation, but what explanations are held against."""
        return self.run.summary.control

    @property
    def blind(self) -> bool:
        """Whether this is a control that cannot know the classifier's reasons."""
        return self.control and not asks_classifier(self.run.settings)


@dataclass
class Panel:
    """What one evaluator says of one classifier's maps on one data split, over all methods.

    `subject` is the classifier's name, the same for every panel of it.
    `parts` holds (run, method, view, key): a map may be black in one run and white in another.
    `key_of` names the map of each run's name, method and view, those measured twice included: such
    a repetition is in no part. `part_conditions` are those that each part is shown for.
    `control_of` compares with the best blind control. `curves_over` is what curves are drawn over.
    `kept` is for sections of the page: what they have made once and need again.
    """

    slug: str
    title: str
    runs: list[EvaluationRun]
    subject: str = ""
    maps: list[PanelMap] = field(default_factory=list)
    parts: list[tuple[EvaluationRun, str, str, str]] = field(default_factory=list)
    part_conditions: list[set[Condition]] = field(default_factory=list)
    mean_of: dict[tuple[str, Condition, str], Mean] = field(default_factory=dict)
    key_of: dict[tuple[str, str, str], str] = field(default_factory=dict)
    comparison_of: dict[Place, Comparison] = field(default_factory=dict)
    control_of: dict[Place, Comparison] = field(default_factory=dict)
    curves_over: Axis = "fraction"
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per image, map (`key`) and condition; read from the runs when first asked for."""
        by_run: dict[int, dict[Any, pd.DataFrame]] = {}
        found = []
        for (run, method, view, key), shown in zip(self.parts, self.part_conditions, strict=True):
            if id(run) not in by_run:
                by_run[id(run)] = dict(iter(run.scores.groupby(["method", "view"], sort=False)))
            mine = by_run[id(run)].get((method, view), run.scores.iloc[:0])
            found.append(under(mine, run.found.conditions, shown).assign(key=key))
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    @property
    def summary(self) -> EvaluationSummary:
        return self.runs[0].summary

    @property
    def images(self) -> int:
        """How many images were measured; 0 where a summary does not say."""
        count = self.summary.data.images
        return count if isinstance(count, int) else 0

    @property
    def found(self) -> EvaluatorSummary:
        """What the evaluator declares, and its facts of the first run."""
        return self.runs[0].found

    @property
    def classifier(self) -> tuple[object, ...]:
        """Equal for panels of one classifier on one split, whatever was measured of its maps."""
        summary = self.summary
        sha = (summary.checkpoint or {}).get("sha256")
        return summary.data.name, summary.model.name, sha, summary.data.split, summary.seed

    @property
    def main(self) -> str:
        """The score that maps are compared by."""
        return self.found.scores[0].name

    @cached_property
    def conditions(self) -> list[Condition]:
        return ordered_conditions(condition for _, condition, _ in self.mean_of)

    def condition_text(self, condition: Condition) -> str:
        """The condition in words."""
        return condition_text(self.found.conditions, condition)

    def main_mean(self, key: str, condition: Condition) -> Mean | None:
        """The mean of the main score of a map under a condition."""
        return self.mean_of.get((key, condition, self.main))

    def better(self, condition: Condition) -> str | None:
        """Which way the main score is better under a condition."""
        return next((m.better for (_, c, s), m in self.mean_of.items()
                     if (c, s) == (condition, self.main)), None)  # fmt: skip

    @cached_property
    def main_tables(self) -> dict[Condition, pd.DataFrame]:
        """The main score under each condition: a row for each image, a column for each map."""
        names = self.found.conditions
        parts = (
            self.scores.groupby(names, observed=True, sort=False) if names else [((), self.scores)]
        )
        return {
            tuple(map(str, condition)): part.pivot(
                index="sample_id", columns="key", values=self.main
            )
            for condition, part in parts
        }

    @property
    def reference(self) -> PanelMap:
        """What the others are compared with: the original gradient where it was measured."""
        hits = [one for one in self.maps if (one.method, one.view) == REFERENCE]
        return (hits or self.maps)[0]

    def protocol_text(self, word: str = "") -> str:
        """ "threshold", "standard protocol, 4 draws": how pixels go; empty where none go."""
        facts = self.found.facts
        if "protocol" not in facts:
            return ""
        draws = f", {facts['draws']} draws" if "draws" in facts else ""
        return f"{facts['protocol']}{word}{draws}"

    @property
    def published(self) -> Published | None:
        """The published numbers, where this panel follows their protocol on test images."""
        if not follows_published(self.found) or self.summary.data.split.startswith("train"):
            return None
        return published(self.summary.data.name, self.summary.model.name, self.runs[0].pretrained)


def follows_published(found: EvaluatorSummary) -> bool:
    """Whether an evaluator measured what Llorente et al. did: deletion by thresholds, as far."""
    facts = found.facts
    if found.name != "deletion" or facts.get("protocol") != "threshold":
        return False
    return tuple(facts.get("fractions", PUBLISHED_FRACTIONS)) == PUBLISHED_FRACTIONS


def is_made_as_published(one: PanelMap) -> bool:
    """Whether a map is Llorente et al.'s: of the gradient, all classes, the largest channel."""
    return one.method == "gradient" and agree(PUBLISHED_SETTINGS, one.run.settings)


def under(table: pd.DataFrame, names: Sequence[str], conditions: set[Condition]) -> pd.DataFrame:
    """The rows of these conditions."""
    if not names:
        return table
    kinds = table[list(names)].drop_duplicates().astype(str)
    if set(kinds.itertuples(index=False, name=None)) <= conditions:
        return table
    values = table[list(names)].astype(str).itertuples(index=False, name=None)
    return table[[condition in conditions for condition in values]]


def condition_values(condition: Mapping[str, str], names: Sequence[str]) -> Condition:
    """A condition of the summary as values in the evaluator's order."""
    return tuple(condition[name] for name in names)
