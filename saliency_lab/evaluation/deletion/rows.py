"""The rows that a batch of images gives: one per image, view, mode, fill and fraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.deletion.curves import CurveScores


def block_rows(
    batch: Batch,
    method: str,
    fractions: Sequence[float],
    predicted: Tensor,
    scored: Mapping[tuple[str, str, str], CurveScores],
    skipped: Sequence[str],
) -> pd.DataFrame:
    """The rows of a batch, in the images' order within each curve.

    Args:
        predicted: classes of the intact images, (B,).
        scored: (view, mode, fill) to scores (B, F).
        skipped: ids of images that get no rows.
    """
    intact = predicted.cpu().numpy()[:, None]
    images, count = len(batch.ids), len(fractions)
    frames = []
    for (view, mode, fill), scores in scored.items():
        prediction = scores.prediction.cpu().numpy()
        frames.append(
            pd.DataFrame(
                {
                    "sample_id": np.repeat(np.array(batch.ids, dtype=object), count),
                    "index": np.repeat(batch.index.cpu().numpy(), count),
                    "label": np.repeat(batch.label.cpu().numpy(), count),
                    "method": method,
                    "view": view,
                    "mode": mode,
                    "fill": fill,
                    "fraction": np.tile(fractions, images),
                    "deleted": scores.deleted.cpu().numpy().ravel(),
                    "prediction": prediction.ravel(),
                    "agrees": (prediction == intact).ravel(),
                    "probability": scores.probability.cpu().numpy().ravel(),
                    "logit": scores.logit.cpu().numpy().ravel(),
                }
            )
        )
    rows = pd.concat(frames, ignore_index=True)
    rows = rows[~rows["sample_id"].isin(skipped)] if skipped else rows
    return rows.astype(dict.fromkeys(("method", "view", "mode", "fill"), "category"))
