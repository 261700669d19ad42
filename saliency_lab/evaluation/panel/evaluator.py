"""Measures whose failures differ, asked together, each about a map and its smoothed twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.grid_pointing.evaluator import GridPointing
from saliency_lab.evaluation.localisation.evaluator import Localisation
from saliency_lab.evaluation.mu_fidelity.evaluator import MuFidelity
from saliency_lab.evaluation.panel.smoothing import SmoothedContext, twins
from saliency_lab.evaluation.panel.votes import LEAST, pair_verdicts, twin_table
from saliency_lab.evaluation.relevance_gain.evaluator import RelevanceGainEvaluator

_EVIDENCE = "evidence"
"""The measure that is taken against known evidence, where the data have any."""
_NO_GRIDS = (
    "GridPG and DiFull are left out: they need images of four classes that are classified rightly "
    "with a confidence of {} (evaluator.panel.confidence), and a method that can be asked for maps "
    "of grids"
)
_TOO_FEW = (
    "no map can beat another: a verdict takes {} measures that agree (evaluator.panel.least), and "
    "there are {}"
)


@dataclass(frozen=True)
class _Member:
    """A measure: an evaluator, the column that counts and the keys of the rows that do.

    `chance` is the column of what a random map gets, where that differs from view to view.
    """

    evaluator: Evaluator
    column: str
    keys: Mapping[str, object]
    chance: str | None = None


class Panel(Evaluator):
    """Relevance gain (mean, ROAD), MuFidelity, GridPG, DiFull, and the evidence where it is known.

    Every value is such that higher is better; shares in cells are above chance (`above_chance`).
    A map beats another where at least `least` measures decide so and none decides otherwise; see
    `votes.pair_verdicts`. A map's smoothed twin is measured beside it: where the twin wins,
    smoothness explains what the measure rewards.
    Whether a map depends on the model at all is for evaluator=randomisation to say first.

    Args:
        samples: subsets of MuFidelity.
        confidence, grids: of GridPG and DiFull, see `GridPointing`.
        least: measures that have to decide.
        twin: whether the twins are measured, which takes as long again.
    """

    scores: ClassVar[tuple[Score, ...]] = (Score("value", "higher", -1, 1),)
    role: ClassVar[Role] = "panel"
    keys: ClassVar[tuple[str, ...]] = ("measure", "version")

    def __init__(
        self,
        *,
        samples: Annotated[int, Ge(3)] = 200,
        confidence: Annotated[float, Ge(0), Le(1)] = 0.99,
        grids: Annotated[int, Gt(0)] = 500,
        least: Annotated[int, Gt(0)] = LEAST,
        twin: bool = True,
    ) -> None:
        self.least, self.twin = least, twin
        gain = RelevanceGainEvaluator(fills=("mean", "road"), segments=("pixels",))
        self._grid = grid = GridPointing(sides=(2,), confidence=confidence, count=grids)
        self._members = {
            "relevance gain, mean": _Member(gain, "gain", {"fill": "mean"}),
            "relevance gain, ROAD": _Member(gain, "gain", {"fill": "road"}),
            "MuFidelity": _Member(MuFidelity(samples=samples), "mu_fidelity", {}),
            "GridPG": _Member(grid, "pointing", {"setting": "grid"}, "chance"),
            "DiFull": _Member(grid, "pointing", {"setting": "separate"}, "chance"),
            _EVIDENCE: _Member(Localisation(), "roc_auc", {}),
        }

    def check(self, context: Context, name: str) -> None:
        """Refuse what its measures refuse; measures that need what is not there are left out.

        Those of grids need a method that can be asked for maps of them, and four classes with
        images of enough confidence.
        """
        super().check(context, name)
        for evaluator in self._evaluators(context):
            evaluator.check(context, name)

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """One row per image, view, measure and version; NaN where an image has no grid."""
        versions = {"map": (context, maps)}
        if self.twin:
            smooth = SmoothedContext.of(context)
            found = dataclasses.replace(maps, maps=twins(maps.maps, smooth.sigma))
            versions["twin"] = smooth, found
        for version, (asked, given) in versions.items():
            for evaluator in self._evaluators(context):
                for part in evaluator.measure(asked, batch, given):
                    yield from self._own(evaluator, part, version)

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that have a value."""
        return rows[rows["value"].notna()]

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """Verdicts on every pair of views, and each map against its twin."""
        measures = list(dict.fromkeys(scores["measure"].astype(str)))
        warnings = [] if "GridPG" in measures else [_NO_GRIDS.format(self._grid.confidence)]
        if len(measures) < self.least:
            warnings.append(_TOO_FEW.format(self.least, len(measures)))
        return {
            **({"warnings": warnings} if warnings else {}),
            "measures": measures,
            "least": self.least,
            "known_evidence": [_EVIDENCE],
            "verdicts": pair_verdicts(scores[scores["version"] == "map"], least=self.least),
            "twins": twin_table(scores),
        }

    def _evaluators(self, context: Context) -> list[Evaluator]:
        """Each evaluator once, without those that need what this run does not have."""
        has_masks = context.data.has_masks(context.split)
        absent = set() if has_masks else {"masks"}
        absent |= set() if context.method.recomputes else {"source"}
        found = {id(member.evaluator): member.evaluator for member in self._members.values()}
        there = [one for one in found.values() if not absent & one.needs]
        if self._grid in there and not self._grid.fits(context):
            there.remove(self._grid)
        return there

    def _own(self, evaluator: Evaluator, part: Measured, version: str) -> Iterable[Measured]:
        for name, member in self._members.items():
            fits = all(part.keys.get(key) == value for key, value in member.keys.items())
            if member.evaluator is evaluator and fits:
                value = part.values[member.column]
                if member.chance is not None:
                    value = above_chance(value, part.values[member.chance])
                yield Measured(part.view, {"measure": name, "version": version}, {"value": value})


def above_chance(share: Tensor, chance: Tensor) -> Tensor:
    """A share in [0, 1] above chance, in units of 1 − 1/n² for grids of n² cells.

    A map that knows nothing has 0 on average, however its shares scatter; any scale with a kink at
    chance would give it a bias. The own cell of n² is chance 1/n²: its views lie in [−1/3, 1] at
    n = 2. Negative and inactive parts belong into the rivals' cells, with chance 1 − 1/n²: theirs
    lie in [−1, 1/3].
    """
    return (share - chance) / torch.maximum(chance, 1 - chance)
