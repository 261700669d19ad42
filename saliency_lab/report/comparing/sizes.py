"""How many images do the comparisons of a report need? Told from its rows, without a new run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from saliency_lab.evaluation.rows.agreement import images_needed, interval_widths
from saliency_lab.report.comparing.maps import Panel

COUNTS = (30, 100, 300, 1000)
_RESAMPLES = 200


def size_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """Per map and condition: its difference from the reference, and what it takes to see it.

    `needed` is the number of images with which a 95 % interval excludes 0 in four of five
    repetitions, if the difference is what was found; the widths are those of the interval of the
    mean difference with so many images, from resampling the paired rows.
    """
    rows = []
    for panel in panels:
        if panel.found.role in ("gate", "robustness"):
            continue
        reference = panel.reference
        for condition in panel.conditions:
            wide = panel.main_tables[condition]
            unasked = panel.better(condition) is None or "twin" in condition
            if unasked or reference.key not in wide:
                continue
            for one in panel.maps:
                if one.key == reference.key or one.key not in wide:
                    continue
                pair = wide[[one.key, reference.key]].dropna()
                differences = pair[one.key] - pair[reference.key]
                if len(differences) < 2 or differences.mean() == 0:
                    continue
                widths = interval_widths(differences, COUNTS, resamples=_RESAMPLES)
                rows.append(
                    {
                        "classifier": panel.title.split(" (")[0],
                        "measure": panel.found.name,
                        "condition": panel.condition_text(condition),
                        "map": one.label,
                        "against": reference.label,
                        "images": len(differences),
                        "difference": float(differences.mean()),
                        "images needed": images_needed(differences),
                        **{
                            f"width with {row.images:,}": row.width
                            for row in widths.itertuples(index=False)
                        },
                    }
                )
    return pd.DataFrame(rows)
