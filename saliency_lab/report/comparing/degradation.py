"""Maps with a known share of noise in them: does a measure put them into the right order?"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saliency_lab.evaluation.rows.intervals import Floats
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Condition, Panel, PanelMap
from saliency_lab.report.reading.configs import DEGRADED

_SHARE = "method.share"

Family = tuple[str, tuple[tuple[str, str], ...]]
"""A view and all settings but the share: maps that differ in nothing but the noise."""


def degradation_table(panels: Sequence[Panel], known: Known | None = None) -> pd.DataFrame:
    """Per measure and condition: pairs of shares of noise that it orders rightly.

    The map with less noise should score better. `pairs` counts every two shares of each source
    and view; `right` those whose means over images are in this order, `images` the share of
    single images that are, half of them where both maps score the same. What is `known` need not
    be counted again.
    """
    known = known or Known()
    return pd.DataFrame(row for panel in panels for row in known.of_panel(_rows, panel))


def _rows(panel: Panel) -> list[dict[str, Any]]:
    rows = []
    families = _families(panel)
    for condition in panel.conditions:
        better = panel.better(condition)
        pairs = list(_pairs(panel, families, condition))
        if better is None or not pairs or "twin" in condition:
            continue
        sign = 1 if better == "higher" else -1
        right = sum(bool(sign * (less.mean() - more.mean()) > 0) for less, more in pairs)
        images = np.concatenate([_ordered(sign * (less - more)) for less, more in pairs])
        rows.append(
            {
                "classifier": panel.subject,
                "measure": panel.found.name,
                "condition": panel.condition_text(condition),
                "maps": sum(len(shares) for shares in families.values()),
                "pairs": len(pairs),
                "right": right,
                "share right": right / len(pairs),
                "images": float(images.mean()),
            }
        )
    return rows


def _families(panel: Panel) -> dict[Family, dict[float, PanelMap]]:
    """Maps of two shares or more, by everything else that shapes them."""
    found: dict[Family, dict[float, PanelMap]] = defaultdict(dict)
    for one in panel.maps:
        settings = one.run.settings
        if settings.get("method._target_") == DEGRADED:
            rest = {name: value for name, value in settings.items() if name != _SHARE}
            found[one.view, tuple(sorted(rest.items()))][float(settings[_SHARE])] = one
    return {family: shares for family, shares in found.items() if len(shares) > 1}


def _pairs(
    panel: Panel, families: dict[Family, dict[float, PanelMap]], condition: Condition
) -> Iterator[tuple[Floats, Floats]]:
    """The scores, by image, of the map with less noise and of that with more."""
    columns = {key: column.to_numpy() for key, column in panel.main_tables[condition].items()}
    for shares in families.values():
        for less, more in itertools.combinations(sorted(shares), 2):
            keys = [shares[less].key, shares[more].key]
            if all(key in columns for key in keys):
                both = np.stack([columns[key] for key in keys]).astype(np.float64)
                both = both[:, ~np.isnan(both).any(0)]
                if both.size:
                    yield both[0], both[1]


def _ordered(difference: Floats) -> Floats:
    """1 where an image agrees, 0 where it does not, 1/2 where it cannot tell."""
    return (difference > 0) + 0.5 * (difference == 0)
