"""Whether maps point at a planted cue, and whether the classifier relies on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import pandas as pd
import torch

from saliency_lab.data.batch import Batch
from saliency_lab.data.shortcuts import Cue
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.localisation.scores import localisation_scores
from saliency_lab.evaluation.perturbation import require_finite_altered

# A classifier relies on the cue where putting it into images of other classes makes at least so
# many of them its class.
RELIED_ON = 0.5


class Shortcut(Evaluator):
    """Maps of the cue's class on images that carry the cue, whatever their own class is.

    Each image is taken without the cue and with it (`data.shortcut`), and the cue's class is
    explained with it:

    - `found`: whether the strongest pixel lies on the cue; over a classifier that was trained with
      the cue this is the rate of detection, over one trained without it that of false alarm;
    - `energy_inside`, `roc_auc`: see `localisation`; a random map gets `cue_share` and 1/2;
    - `cue_share`: the share of the pixels that the cue lies on, a random map's `found`;
    - `swayed`: whether the cue turns the image of another class into its own; not defined for
      images that are of this class, or taken for it without the cue;
    - `right_without`, `right_with`: whether the true class is predicted.

    A tint (shortcut=colour) has no place: it lies everywhere, and `swayed` is all that is said.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("energy_inside", "higher", 0, 1),
        Score("found", "higher", 0, 1),
        Score("roc_auc", "higher", 0, 1),
        Score("cue_share", None, 0, 1),
        Score("swayed", None, 0, 1),
        Score("right_without", None, 0, 1),
        Score("right_with", None, 0, 1),
    )
    role: ClassVar[Role] = "truth"
    needs: ClassVar[frozenset[Need]] = frozenset({"source"})

    def __init__(self) -> None:
        pass

    def check(self, context: Context, name: str) -> None:
        super().check(context, name)
        _cue(context)

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        cue = _cue(context)
        index = batch.index.cpu().numpy()
        pixels = context.data.split(context.split).clean_pixels(index)
        without, planted = (
            torch.from_numpy(part).to(batch.image) / 255
            for part in (pixels, cue.planted(pixels, batch.ids))
        )
        size = (pixels.shape[2], pixels.shape[3])
        lies = torch.from_numpy(cue.masks(batch.ids, size)).to(batch.image.device)
        clean, cued = (context.model.logits(part) for part in (without, planted))
        require_finite_altered(cued, clean.sum(1), "images with the cue")
        before, after = clean.argmax(1), cued.argmax(1)
        label = torch.full_like(before, cue.label)
        other = (batch.label != cue.label) & (before != cue.label)
        swayed = (after == label).double()
        use = {
            "swayed": swayed.where(other, torch.full_like(swayed, torch.nan)),
            "right_without": before == batch.label,
            "right_with": after == batch.label,
        }
        generator = context.generator(batch.ids, "shortcut")
        planted_maps = context.maps_of(planted, batch.ids, label)
        lost = ~planted_maps.finite.to(lies.device)
        for view, values in planted_maps.maps.items():
            found = localisation_scores(values, lies, generator)
            columns = {
                "energy_inside": found["energy_inside"],
                "found": found["pointing_game"],
                "roc_auc": found["roc_auc"],
            }
            # A map that is not finite says nothing of the cue.
            columns = {name: one.masked_fill(lost, torch.nan) for name, one in columns.items()}
            yield Measured(view, values={**columns, "cue_share": found["mask_share"], **use})

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """Whether the classifier was seen to rely on the cue."""
        means = scores.drop_duplicates("sample_id").mean(numeric_only=True)
        swayed = float(means["swayed"])
        return {
            "swayed": swayed,
            "relied_on": swayed >= RELIED_ON,
            "accuracy_without": float(means["right_without"]),
            "accuracy_with": float(means["right_with"]),
            "random_map": {
                "energy_inside": float(means["cue_share"]),
                "found": float(means["cue_share"]),
                "roc_auc": 0.5,
            },
        }


def _cue(context: Context) -> Cue:
    cue = context.data.cue
    if cue is None:
        raise UserError(
            "Expected `data.shortcut` to be watermark, patch or colour for evaluator=shortcut, "
            "but got none"
        )
    return cue
