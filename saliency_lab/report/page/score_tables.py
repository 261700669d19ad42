"""The table of a panel's scores under one condition, as plain data for the template."""

from __future__ import annotations

from typing import Any

from saliency_lab.evaluation.rows.significance import is_significant
from saliency_lab.report.comparing.contrasts import beats, best_control
from saliency_lab.report.comparing.maps import Condition, Panel, PanelMap
from saliency_lab.report.drawing.notation import number, p_text, span
from saliency_lab.report.drawing.plots import interval_span, interval_svg, swatch_svg
from saliency_lab.report.page.tables import published_value


def legend_entry(one: PanelMap) -> dict[str, str]:
    """A map's name and a piece of its line, for legends and rows."""
    return {"key": one.key, "label": one.label, "swatch": swatch_svg(one.style)}


def score_section(panel: Panel, condition: Condition) -> dict[str, Any]:
    """A row for each map: value, interval, difference from the reference, standing to controls."""
    means = {one.key: panel.main_mean(one.key, condition) for one in panel.maps}
    scale = interval_span(end for mean in means.values() if mean for end in (mean.low, mean.high))
    others = [score.name for score in panel.found.scores if score.name != panel.main]
    if panel.found.facts.get("protocol") == "threshold":
        # The reference experiment's areas are of prediction agreement; the files have every score.
        others = [name for name in others if name not in ("probability", "logit")]
    rows = []
    for one in panel.maps:
        mean = means[one.key]
        if mean is None:
            continue
        published = published_value(panel, one, condition)
        further = [panel.mean_of.get((one.key, condition, name)) for name in others]
        rows.append(
            legend_entry(one)
            | {
                "value": number(mean.value),
                "interval": span(mean.low, mean.high),
                "glyph": interval_svg(mean.value, mean.low, mean.high, scale, one.style.colour),
                "published": f"{published:.2f}" if published is not None else "",
                "others": [number(other.value if other else None) for other in further],
                **_difference(panel, one, condition),
                **_standing(panel, one, condition),
            }
        )
    return {
        "name": panel.condition_text(condition),
        "rows": rows,
        "scores": [name.replace("_", " ") for name in others],
        "published": any(row["published"] for row in rows),
    }


def _difference(panel: Panel, one: PanelMap, condition: Condition) -> dict[str, Any]:
    found = panel.comparison_of.get((one.key, condition))
    if found is None:
        return {"difference": "", "difference_interval": "", "p": "", "sure": False, "unsure": ""}
    p = found.p_holm if found.p_holm is not None else found.p
    clear = found.low > 0 or found.high < 0
    sure = p is not None and is_significant(found.low, found.high, p)
    doubt = (
        "its interval excludes 0, but not after correcting for the number of comparisons "
        "(or with so few images)"
    )
    if p is None:
        doubt = "its interval is over images; how much another training changes is not in it"
    return {
        "difference": number(found.difference),
        "difference_interval": span(found.low, found.high),
        "p": p_text(p),
        "sure": sure,
        # An interval clear of zero beside a large p needs a word.
        "unsure": doubt if clear and not sure else "",
    }


def _standing(panel: Panel, one: PanelMap, condition: Condition) -> dict[str, str]:
    """Whether the map is a control, or one that does no better than the best of them."""
    found = panel.control_of.get((one.key, condition))
    best = best_control(panel, condition)
    if one.control or found is None or best is None or beats(found):
        return {"mark": "control" if one.control else "", "mark_title": ""}
    distance = f"{number(found.difference)} {span(found.low, found.high)}"
    title = f"difference to {best.label}: {distance}, p {p_text(found.p_holm)}"
    return {"mark": "does not beat the controls", "mark_title": title}
