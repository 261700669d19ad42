"""The page's first screen: which of these maps may be believed, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from saliency_lab.report.comparing.verdict import UNTESTED, Agreement, Standing, Truth, Verdict
from saliency_lab.report.drawing.notation import number, span
from saliency_lab.report.drawing.scatter import Point, scatter_svg
from saliency_lab.report.page.score_tables import legend_entry

_NAMED = 4


def verdict_sections(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One for each classifier of which something was asked; one for all the others together."""
    found = [_verdict_section(one) for one in verdicts if _was_asked(one) or one.truths]
    silent = [one for one in verdicts if not _was_asked(one) and not one.truths]
    if silent:
        found.append(_verdict_section(silent[0]) | {"classifiers": [_link(one) for one in silent]})
    return found


def _link(verdict: Verdict) -> dict[str, str]:
    return {"title": verdict.title, "slug": verdict.slug}


def _was_asked(verdict: Verdict) -> bool:
    return bool(verdict.measures) or verdict.gated


def _verdict_section(verdict: Verdict) -> dict[str, Any]:
    """Sentences, a table of the maps, and how measures agree with known evidence."""
    labels = {one.map.key: one.map.label for one in verdict.standings}
    return {
        "title": verdict.title,
        "classifiers": [_link(verdict)],
        "sentences": sentences(verdict),
        "rows": [_row(one, labels, len(verdict.measures)) for one in _ordered(verdict)],
        "voted": bool(verdict.measures),
        "gated": verdict.gated,
        "measures": "; ".join(verdict.measures),
        "least": verdict.least,
        "truths": [_truth(truth, verdict) for truth in verdict.truths],
    }


def sentences(verdict: Verdict) -> list[str]:
    """What all evaluators together say, and what was not asked, in a few plain sentences."""
    found = []
    if not _was_asked(verdict):
        return [
            "These runs cannot tell which of these maps to believe: no single measure, deletion "
            "included, can. Add `evaluator=[panel,randomisation]` to the evaluations' commands.",
            *_truth_sentences(verdict),
        ]
    if verdict.measures:
        found.append(_panel_sentence(verdict))
        twins = [one for one in verdict.standings if len(one.twin_wins) >= 2]
        if twins:
            found.append(
                f"Smoothing alone improves {_names(twins)} by two measures or more: part of what "
                "those measures reward is smoothness."
            )
    else:
        found.append("The maps were not compared: `evaluator=panel`, of six measures, does so.")
    if verdict.gated:
        for word, text in (
            ("failed", "Hardly changed when what the model learned was randomised (gate failed)"),
            ("undecided", "Not shown to depend on what the model learned (gate undecided)"),
        ):
            mine = [one for one in verdict.standings if one.gate == word]
            if mine:
                found.append(f"{text}: {_names(mine)}.")
        untested = [
            one
            for one in verdict.standings
            if one.voted and one.gate == UNTESTED and not one.map.control
        ]
        if untested:
            found.append(f"Not tested whether they depend on the model: {_names(untested)}.")
    else:
        found.append(
            "Whether the maps depend on the model at all was not tested: `evaluator=randomisation`."
        )
    return found + _truth_sentences(verdict)


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row per classifier and map: gates, the maps that it beats and loses to, its twin."""
    rows = []
    for verdict in verdicts:
        if not _was_asked(verdict):
            continue
        labels = {one.map.key: one.map.label for one in verdict.standings}
        for one in _ordered(verdict):
            rows.append(
                {
                    "classifier": verdict.title,
                    "map": one.map.label,
                    "control": one.map.control,
                    "gate": one.gate,
                    "beats": len(one.beats),
                    "loses to": len(one.loses_to),
                    "loses to these": "; ".join(labels[key] for key in one.loses_to),
                    "twin better by": "; ".join(one.twin_wins),
                }
            )
    return pd.DataFrame(rows)


def agreement_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row per classifier, truth and measure: the rank correlation over maps."""
    return pd.DataFrame(
        {
            "classifier": verdict.title,
            "truth": f"{truth.name}, {truth.score}",
            "measure": _name(one),
            "better": one.better,
            "maps": len(one.values),
            "rank correlation": one.correlation.value,
            "low": one.correlation.low,
            "high": one.correlation.high,
        }
        for verdict in verdicts
        for truth in verdict.truths
        for one in _by_correlation(truth)
    )


def _panel_sentence(verdict: Verdict) -> str:
    count = sum(one.voted for one in verdict.standings)
    if len(verdict.measures) < verdict.least:
        return (
            f"No map can beat another: it takes {verdict.least} measures that agree, and "
            f"{len(verdict.measures)} are there ({'; '.join(verdict.measures)})."
        )
    rule = (
        f"Of {count} maps on {verdict.images:,} images, where one beats another if at least "
        f"{verdict.least} of {len(verdict.measures)} measures say so and none objects"
    )
    open_pairs = f"{verdict.pairs - verdict.decided} of {verdict.pairs} pairs stay undecided"
    best = [one for one in verdict.standings if one.map.control and one.beats and not one.loses_to]
    told = [_wins(verdict.believed, "other")] if verdict.believed else []
    if best:
        told.append(f"the control{'s' if len(best) > 1 else ''} {_wins(best, 'map')}")
    if told:
        return f"{rule}: {'; '.join(told)}; {open_pairs}."
    if verdict.decided:
        aside = "controls aside, " if any(one.map.control for one in verdict.standings) else ""
        allowed = "no map that did not fail its gate" if verdict.gated else "no map"
        return f"{rule}: {aside}{allowed} stands above the others; {open_pairs}."
    return f"{rule}: no map beats another."


def _wins(best: Sequence[Standing], beaten: str) -> str:
    """ "A and B each beat 2 to 3 others and lose to none"."""
    wins = sorted({len(one.beats) for one in best})
    told = f"{wins[0]}" if len(wins) == 1 else f"{wins[0]} to {wins[-1]}"
    verbs = ("each beat", "lose") if len(best) > 1 else ("beats", "loses")
    plural = "s" if wins[-1] > 1 else ""
    return f"{_names(best)} {verbs[0]} {told} {beaten}{plural} and {verbs[1]} to none"


def _truth_sentences(verdict: Verdict) -> list[str]:
    found = []
    for truth in verdict.truths:
        sure = [one for one in _by_correlation(truth) if one.correlation.low > 0]
        against = [one for one in truth.agreements if one.correlation.high < 0]
        maps = max(len(one.values) for one in truth.agreements)
        start = f"Against evidence that is known ({truth.name}, {maps} maps), "
        if sure:
            best = sure[0]
            # The best of many is above its own mean by luck, too.
            among = f", chosen from {many}" if (many := len(truth.agreements)) > 1 else ""
            text = (
                f"{_name(best)} agrees best: rank correlation {number(best.correlation.value)} "
                f"{span(best.correlation.low, best.correlation.high)}{among}"
            )
        else:
            text = "no measure is shown to agree"
        if against:
            worst = min(against, key=lambda one: one.correlation.value)
            text += (
                f"; {_name(worst)} contradicts it: {number(worst.correlation.value)} "
                f"{span(worst.correlation.low, worst.correlation.high)}"
            )
        found.append(f"{start}{text}.")
    return found


def _row(one: Standing, labels: dict[str, str], measures: int) -> dict[str, Any]:
    return legend_entry(one.map) | {
        "control": one.map.control,
        "voted": one.voted,
        "gate": one.gate,
        "gates": "; ".join(f"{name}: {said}" for name, said in one.gates.items()),
        "beats": len(one.beats),
        "beaten": "; ".join(labels[key] for key in one.beats),
        "loses": len(one.loses_to),
        "lost": "; ".join(labels[key] for key in one.loses_to),
        "twin": f"{len(one.twin_wins)} of {measures}" if one.twin_wins else "",
        "twins": "; ".join(one.twin_wins),
    }


def _truth(truth: Truth, verdict: Verdict) -> dict[str, Any]:
    maps = {one.map.key: one.map for one in verdict.standings}
    shown = _by_correlation(truth)
    area = next((one for one in truth.agreements if one.measure.startswith("deletion")), shown[0])
    chosen = [area] + [one for one in shown[:1] if one is not area]
    score = truth.score.replace("_", " ")
    return {
        "name": truth.name,
        "score": score,
        "figures": [
            {
                "name": f"{_name(one)} against {truth.name}",
                "better": one.better,
                "svg": scatter_svg(
                    [
                        Point(key, maps[key].style, *at, control=maps[key].control)
                        for key, at in one.values.items()
                        if key in maps
                    ],
                    name=f"{_name(one)} against {score}, one point a map, rank correlation "
                    f"{number(one.correlation.value)}",
                    x_title=_name(one),
                    y_title=f"truth: {score}",
                ),
            }
            for one in chosen
            if any(key in maps for key in one.values)
        ],
        "rows": [
            {
                "measure": _name(one),
                "better": {"higher": "larger", "lower": "smaller"}[one.better],
                "maps": len(one.values),
                "value": number(one.correlation.value),
                "interval": span(one.correlation.low, one.correlation.high),
                "sure": one.correlation.low > 0,
                "against": one.correlation.high < 0,
            }
            for one in shown
        ],
    }


def _by_correlation(truth: Truth) -> list[Agreement]:
    return sorted(truth.agreements, key=lambda one: -one.correlation.value)


def _ordered(verdict: Verdict) -> list[Standing]:
    """The maps that lose least and win most first; those that failed a gate and controls last.

    Maps that neither the panel nor a gate was asked about are left out.
    """
    return sorted(
        (one for one in verdict.standings if one.voted or one.gates),
        key=lambda one: (
            one.map.control, one.gate == "failed", len(one.loses_to), -len(one.beats)
        ),
    )  # fmt: skip


def _name(one: Agreement) -> str:
    return f"{one.measure}, {one.condition}" if one.condition else one.measure


def _names(standings: Sequence[Standing]) -> str:
    names = [one.map.label for one in standings]
    shown, rest = names[:_NAMED], len(names) - _NAMED
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
