"""Maps against masks of the evidence, where the data have them, by Quantus."""

from __future__ import annotations

import numpy as np

from benchmarks.conformance.given import Given, Line, largest


def quantus_localisation(given: Given) -> list[Line]:
    """Its scores by other names; none where the data have no masks."""
    if given.masks is None:
        return []
    import quantus

    kinds = {
        "roc_auc": quantus.AUC,
        "energy_inside": quantus.RelevanceMassAccuracy,
        "pointing_game": quantus.PointingGame,
        "top_k": quantus.RelevanceRankAccuracy,
    }
    lines = []
    for score, kind in kinds.items():
        metric = kind(normalise=False, disable_warnings=True, return_aggregate=False)
        asked = given.numpy()
        theirs = metric(
            model=given.network, s_batch=given.masks[:, None].numpy(), device="cpu", **asked
        )
        ours, values = given.scores("localisation", score), np.asarray(theirs, dtype=np.float64)
        name = f"{score} ({kind.__name__})"
        line = Line(
            name, "Quantus", float(ours.mean()), values.mean(), largest(ours, values), None, ""
        )
        lines.append(line)
    return lines
