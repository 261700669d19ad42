"""Maps against the known share of every patch in every logit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saliency_lab.attribution.core.sources import takes_targets
from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.exact_truth.contributions import (
    additive_part,
    mean_patch,
    patch_contributions,
)
from saliency_lab.evaluation.exact_truth.scores import (
    energy_shares,
    marked_patches,
    patch_means,
    rank_correlations,
    sign_agreements,
    true_views,
)

# Training images that the mean patch is taken over.
_AVERAGED = 1000


class ExactTruth(Evaluator):
    """How near maps come to what each patch of a sum over patches (model=patch_sum) really adds.

    Against a baseline patch b, patch p adds (h_c(patch_p) − h_c(b)) / P to logit c, exactly. A
    map's value of a patch is the mean of its pixels. Per image and view:

    - `rank_correlation`: Spearman's, over the patches, with the view's own truth (`true_views`);
      0 on average for a random map, and 0 where the map or the truth is constant;
    - `sign_agreement`: of the field's sum over a patch with the target's contribution; it does not
      depend on the view. A source without a field is judged by the sign of its map. 1/2 for random
      signs, and for one sign everywhere;
    - `energy`: the share of the map's positive part in the patches that the view should mark
      (`marked_patches`), beside `energy_chance`, a random map's;
    - `informative`: 1 where the truth of the view is not constant, else 0.

    Args:
        baseline: the patch b: `black`, or `mean`, the mean patch of up to 1,000 training images.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("rank_correlation", "higher", -1, 1),
        Score("sign_agreement", "higher", 0, 1),
        Score("energy", "higher", 0, 1),
        Score("energy_chance", None, 0, 1),
        Score("informative", None, 0, 1),
    )
    role: ClassVar[Role] = "truth"

    def __init__(self, *, baseline: Literal["black", "mean"] = "black") -> None:
        self.baseline = baseline

    def check(self, context: Context, name: str) -> None:
        super().check(context, name)
        additive_part(context.model.original)

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        model, images = context.model.original, batch.image
        patch = additive_part(model).patch
        contributions = patch_contributions(model, images, self._baseline(context, images))
        views = tuple(view for view in context.method.views if view in maps.maps)
        truths = true_views(
            contributions, maps.logits, maps.targets, views, context.method.competitors
        )
        rows = torch.arange(len(images), device=images.device)
        own = contributions[rows, maps.targets.to(rows.device)]
        field = _signed_patches(context, batch, maps, patch)
        for view, truth in truths.items():
            shown = patch_means(maps.maps[view].float(), patch)
            signed = shown if field is None else field
            energy, chance = energy_shares(shown, marked_patches(truth, own, view))  # type: ignore[arg-type]
            flat = truth.flatten(1)
            yield Measured(
                view,
                values={
                    "rank_correlation": rank_correlations(shown, truth),
                    "sign_agreement": sign_agreements(signed, own),
                    "energy": energy,
                    "energy_chance": chance,
                    "informative": (flat.amax(1) > flat.amin(1)).double(),
                },
            )

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """The baseline, and what a random map gets."""
        chance = float(np.mean(scores["energy_chance"])) if len(scores) else None
        return {
            "baseline": self.baseline,
            "random_map": {"rank_correlation": 0.0, "sign_agreement": 0.5, "energy": chance},
        }

    def _baseline(self, context: Context, images: Tensor) -> Tensor:
        patch = additive_part(context.model.original).patch
        if self.baseline == "black":
            return images.new_zeros(images.shape[1], patch, patch)

        def mean() -> Tensor:
            count = len(context.data.ids("train"))
            chosen = np.unique(np.linspace(0, count - 1, min(count, _AVERAGED)).astype(np.int64))
            pixels = torch.from_numpy(context.data.images("train", chosen))
            return mean_patch(pixels.double() / 255, patch)

        return context.kept(("exact_truth", "mean_patch"), mean)


def _signed_patches(context: Context, batch: Batch, maps: Found, patch: int) -> Tensor | None:
    """The field of the targets, summed over channels and meant over patches; None without one."""
    if takes_targets(context.method.source) or not context.method.recomputes:
        return None

    def compute(rows: slice) -> Tensor:
        field = context.field_of(batch.image[rows], batch.ids[rows])
        return patch_means(field.of(maps.targets[rows]).sum(1), patch)

    return torch.cat(context.model.maps(compute, len(batch.ids)))
