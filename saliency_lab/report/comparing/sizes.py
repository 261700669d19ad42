"""How many images do the comparisons of a report need? Told from its rows, without a new run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saliency_lab.evaluation.rows.agreement import images_needed, interval_widths
from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Panel

COUNTS = (30, 100, 300, 1000)
_RESAMPLES = 200


def size_table(panels: Sequence[Panel], known: Known | None = None) -> pd.DataFrame:
    """Per map and condition: its difference from the reference, and what it takes to see it.

    `needed` is the number of images with which a 95 % interval (Student's) excludes 0 in four of
    five repetitions, if the difference is what was found, and no fewer than p < 0.05 takes (6),
    before it is corrected for other comparisons; the widths are those of the interval of the
    mean difference with so many images, from resampling the paired rows. What is `known`
    need not be computed again.
    """
    known = known or Known()
    asked = (panel for panel in panels if panel.found.role not in ("gate", "robustness"))
    return pd.DataFrame(row for panel in asked for row in known.within(_rows, panel))


def _rows(panel: Panel, known: Known) -> list[dict[str, Any]]:
    rows = []
    reference = panel.reference
    for condition in panel.conditions:
        if panel.better(condition) is None or "twin" in condition:
            continue
        wide = panel.main_tables[condition]
        if reference.key not in wide:
            continue
        columns = {str(key): values.to_numpy() for key, values in wide.items()}
        for one in panel.maps:
            if one.key == reference.key or one.key not in columns:
                continue
            differences = (columns[one.key] - columns[reference.key]).astype(np.float64)
            differences = differences[~np.isnan(differences)]
            if len(differences) < 2 or differences.mean() == 0:
                continue
            needed, *widths = known.result(_needed, differences)
            rows.append(
                {
                    "classifier": panel.subject,
                    "measure": panel.found.name,
                    "condition": panel.condition_text(condition),
                    "map": one.label,
                    "against": reference.label,
                    "images": len(differences),
                    "difference": float(differences.mean()),
                    "images needed": needed,
                    **{
                        f"width with {images:,}": width
                        for images, width in zip(COUNTS, widths, strict=True)
                    },
                }
            )
    return rows


def _needed(differences: NDArray[np.float64]) -> list[float]:
    """Images that a mean difference needs, and the width of its interval with each of `COUNTS`."""
    widths = interval_widths(differences, COUNTS, resamples=_RESAMPLES)
    return [images_needed(differences), *map(float, widths["width"])]
