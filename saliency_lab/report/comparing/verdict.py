"""Which maps of a classifier may be believed: gates, the panel's votes, and known evidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from saliency_lab.evaluation.panel.votes import pair_verdicts, twin_table
from saliency_lab.evaluation.rows.agreement import Correlation, rank_agreement
from saliency_lab.report.comparing.grouping import measure_names
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Condition, Panel, PanelMap
from saliency_lab.report.drawing.palette import order_of

LEAST_MAPS = 8
"""Fewer maps than this have no order to speak of: their interval would be from −1 to 1."""

UNTESTED = "not tested"


@dataclass(frozen=True)
class Standing:
    """Where one map stands: its gates, and the keys of the maps that it beats or loses to.

    `voted` says whether the panel measured it; `gates` holds the verdict of each gate by its
    evaluator, and by its settings where there are several; `twin_wins` the panel's measures by
    which the map's smoothed twin is better than the map.
    """

    map: PanelMap
    voted: bool
    gates: dict[str, str]
    beats: tuple[str, ...] = ()
    loses_to: tuple[str, ...] = ()
    twin_wins: tuple[str, ...] = ()

    @property
    def gate(self) -> str:
        """The worst that any gate says; `not tested` without one."""
        known = set(self.gates.values())
        return next((one for one in ("failed", "undecided", "passed") if one in known), UNTESTED)


@dataclass(frozen=True)
class Agreement:
    """How one measure ranks the maps, against evidence that is known.

    `values` holds (measure, truth) of each map by its key; `correlation` is Spearman's, positive
    where the measure's better maps are the truer ones.
    """

    measure: str
    condition: str
    better: str
    values: dict[str, tuple[float, float]]
    correlation: Correlation


@dataclass(frozen=True)
class Truth:
    """What was held against evidence that is known: by which score, and how measures agree."""

    name: str
    score: str
    agreements: list[Agreement]


@dataclass
class Verdict:
    """What all evaluators together say about the maps of one classifier."""

    title: str
    slug: str
    runs: list[str]
    standings: list[Standing]
    measures: list[str] = field(default_factory=list)
    images: int = 0
    least: int = 0
    decided: int = 0
    pairs: int = 0
    truths: list[Truth] = field(default_factory=list)

    @property
    def gated(self) -> bool:
        """Whether any gate was asked."""
        return any(one.gates for one in self.standings)

    @property
    def believed(self) -> list[Standing]:
        """No control, failed no gate, beats a map and loses to none: the most wins first."""
        found = [
            one for one in self.standings
            if not one.map.control and one.gate != "failed" and one.beats and not one.loses_to
        ]  # fmt: skip
        return sorted(found, key=lambda one: -len(one.beats))


def verdicts(panels: Sequence[Panel], known: Known | None = None) -> list[Verdict]:
    """One for each classifier and split, in the order of its first panel.

    Args:
        panels: of all evaluators.
        known: comparisons that need not be made again.
    """
    known = known or Known()
    groups: dict[tuple[object, ...], list[Panel]] = defaultdict(list)
    for panel in panels:
        groups[panel.classifier].append(panel)
    return [_verdict(group, known) for group in groups.values()]


def _verdict(panels: Sequence[Panel], known: Known) -> Verdict:
    maps = {one.key: one for panel in reversed(panels) for one in panel.maps}
    voted = max(
        (panel for panel in panels if panel.found.role == "panel"),
        key=lambda panel: (len(panel.maps), panel.images),
        default=None,
    )
    gates = _gates(panels)
    asked = {one.key for one in voted.maps} if voted else set()
    beats: dict[str, list[str]] = defaultdict(list)
    loses: dict[str, list[str]] = defaultdict(list)
    twins: dict[str, list[str]] = defaultdict(list)
    found = Verdict(
        title=panels[0].subject,
        slug=panels[0].slug,
        runs=sorted({run.name for panel in panels for run in panel.runs}),
        standings=[],
    )
    if voted is not None:
        votes = known.within(_votes, voted)
        found.least = _least(voted)
        found.images, found.measures = votes["images"], votes["measures"]
        found.pairs, found.decided = votes["pairs"], len(votes["won"])
        for winner, loser in votes["won"]:
            beats[winner].append(loser)
            loses[loser].append(winner)
        for key, measure in votes["twins"]:
            twins[key].append(measure)
    found.standings = [
        Standing(
            one,
            one.key in asked,
            gates.get(one.key, {}),
            tuple(beats[one.key]),
            tuple(loses[one.key]),
            tuple(twins[one.key]),
        )
        for one in sorted(maps.values(), key=lambda one: (order_of(one.method, one.view), one.key))
    ]
    found.truths = _truths(panels, _net_votes(voted, known))
    return found


def _votes(panel: Panel, known: Known) -> dict[str, Any]:
    """What the panel's measures say: pairs asked, those won (winner, loser), twins that win."""
    scores = _by_key(panel)
    pairs = known.table(pair_verdicts, _maps(scores), least=_least(panel))
    twins = known.table(twin_table, scores[_VOTED])
    return {
        "images": int(scores["sample_id"].nunique()),
        "measures": list(dict.fromkeys(scores["measure"].astype(str))),
        "pairs": len(pairs),
        "won": list(_won(pairs)),
        "twins": [(row["view"], row["measure"]) for row in twins if row["twin_wins"]],
    }


def _won(pairs: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Winner and loser of each pair that is decided."""
    for pair in pairs:
        if pair["verdict"] != "undecided":
            yield pair["verdict"], pair["b"] if pair["verdict"] == pair["a"] else pair["a"]


def _least(panel: Panel) -> int:
    """Measures that have to decide: of runs under different rules the strictest."""
    return max(int(run.found.facts.get("least", 0)) for run in panel.runs)


def _gates(panels: Sequence[Panel]) -> dict[str, dict[str, str]]:
    """Key of a map to what each gate says of it; the plain variant where there are several.

    Of a gate that was asked on several sets of images the largest counts. Under several settings
    it is several gates, for one that is easier to pass must not hide what another has found.
    """
    gates = [panel for panel in panels if panel.found.role == "gate"]
    name_of = measure_names([panel.runs[0].measure for panel in gates])
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for panel in sorted(gates, key=lambda panel: panel.images):
        for run in panel.runs:
            for entry in run.found.facts.get("gate", []):
                key = panel.key_of.get((run.name, entry["method"], entry["view"]))
                if key is not None and entry.get("variant", "plain") == "plain":
                    found[key][name_of[panel.runs[0].measure]] = str(entry["verdict"])
    return found


def _truths(panels: Sequence[Panel], votes: pd.Series) -> list[Truth]:
    found = []
    for panel in panels:
        if panel.found.role != "truth":
            continue
        for condition in panel.conditions:
            known = _Known(_means(panel, condition), panel.better(condition) != "lower")
            agreements = [
                one
                for other in panels
                if other.found.role in ("measure", "panel")
                for place in other.conditions
                if (one := _agreement(other, place, known)) is not None
            ]
            whole = _ranked("panel", "maps beaten − lost to", "higher", votes, known)
            if whole is not None:
                agreements.insert(0, whole)
            if agreements:
                name = " ".join([panel.found.name, panel.condition_text(condition)]).strip()
                found.append(Truth(name, panel.main, agreements))
    return found


class _Known(NamedTuple):
    """Each map's main score against known evidence, by the map's key."""

    scores: pd.Series
    higher_is_better: bool


def _agreement(panel: Panel, condition: Condition, known: _Known) -> Agreement | None:
    better = panel.better(condition)
    name, text = panel.found.name, panel.condition_text(condition)
    if panel.found.role == "panel":
        measure, version = condition
        if version != "map" or measure in _known_evidence(panel):
            return None
        name, text = "panel", measure
    elif protocol := panel.protocol_text(" protocol"):
        text = f"{text}, {protocol}"
    return _ranked(name, text, better, _means(panel, condition), known) if better else None


def _net_votes(panel: Panel | None, known: Known) -> pd.Series:
    """How many maps one beats, less those that it loses to, without the measure of the truth.

    That measure left in, the panel would be asked whether the truth agrees with itself.
    """
    if panel is None:
        return pd.Series(dtype=np.float64)
    net = dict.fromkeys((one.key for one in panel.maps), 0.0)
    for winner, loser in known.within(_blind_votes, panel):
        net[winner] += 1
        net[loser] -= 1
    return pd.Series(net)


def _blind_votes(panel: Panel, known: Known) -> list[tuple[str, str]]:
    """Winner and loser of each decided pair, without the measures that know the evidence."""
    scores = _by_key(panel)
    blind = ~scores["measure"].isin(_known_evidence(panel))
    return list(_won(known.table(pair_verdicts, _maps(scores[blind]), least=_least(panel))))


def _by_key(panel: Panel) -> pd.DataFrame:
    """The panel's rows with a map's key in place of its view, as the votes ask for it."""
    return panel.scores.assign(view=panel.scores["key"])


_VOTED = ["sample_id", "view", "measure", "version", "value"]


def _maps(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the maps themselves, not of their smoothed twins."""
    return scores.loc[scores["version"] == "map", _VOTED]


def _known_evidence(panel: Panel) -> list[str]:
    found = [measure for run in panel.runs for measure in run.found.facts.get("known_evidence", [])]
    return list(dict.fromkeys(found))


def _ranked(
    name: str, condition: str, better: str, values: pd.Series, known: _Known
) -> Agreement | None:
    both = pd.concat([values, known.scores], axis=1, join="inner").dropna()
    if len(both) < LEAST_MAPS:
        return None
    sign = 1 if (better == "higher") == known.higher_is_better else -1
    correlation = rank_agreement(sign * both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy())
    if np.isnan(correlation.value):
        return None
    points = {str(key): (float(a), float(b)) for key, a, b in both.itertuples(name=None)}
    return Agreement(name, condition, better, points, correlation)


def _means(panel: Panel, condition: Condition) -> pd.Series:
    """Mean of the main score of each map under a condition, by the map's key."""
    found = {one.key: panel.main_mean(one.key, condition) for one in panel.maps}
    return pd.Series({key: mean.value for key, mean in found.items() if mean}, dtype=np.float64)
