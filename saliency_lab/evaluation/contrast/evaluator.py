"""Do maps of two networks differ as their labels do, on the same images?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.localisation.scores import energy_inside
from saliency_lab.evaluation.localisation.use import flips
from saliency_lab.evaluation.other_network import other_classifier
from saliency_lab.evaluation.rows.intervals import accuracy_interval, bootstrap_interval
from saliency_lab.frozen import intact_logits
from saliency_lab.imputation.fills import checked_fill, fill_for, replacement

KEY = "evaluator.contrast.other"


class Contrast(Evaluator):
    """How much more of a map lies on the mask than of the other network's map by the same method.

    Meant for `data=pasted`: the run's network is trained with `data.classes_are=object`, the other
    one with `data.classes_are=scene`, and the mask is the object (the other way round it is the
    scene). Each explains the class that it predicts itself. Per image and view:

    - `contrast`: `energy_inside` − `energy_inside_other`; a map that does not ask the network, a
      random one among them, gets exactly 0;
    - `energy_inside`, `energy_inside_other`: the share of the positive part of each network's map
      that lies on the mask (see `localisation.scores.energy_inside`); a random map's is
      `mask_share` on average;
    - `flips`, `flips_other`: whether covering the mask changes the prediction of each network.
      Where it does not do so more often with the run's network than with the other, there is no
      difference that a map should show. They do not depend on the map.

    Yang and Kim take the difference of the maps' mean values on the object, clipped and scaled,
    over images that both networks get right; here it is the share of the energy, which needs no
    scale, over all images.

    A measure and not a `truth`: what is known is the sign alone, and that only if the other
    network was trained as said, which no evaluator can see. How large the difference should be
    depends on how much either network looks at the rest of the image. The masks of the same data
    are a truth (`evaluator=localisation`).

    Args:
        other: the other network's checkpoint or its training's directory.
        fill: what covers the object (see `replacement`).

    Source: Yang and Kim, "Benchmarking attribution methods with relative feature importance",
    2019, section 4 (model contrast score).
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("contrast", "higher", -1, 1),
        Score("energy_inside", "higher", 0, 1),
        Score("energy_inside_other", None, 0, 1),
        Score("mask_share", None, 0, 1),
        Score("flips", None, 0, 1),
        Score("flips_other", None, 0, 1),
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"masks", "source", "other_model"})

    def __init__(self, *, other: str | None = None, fill: str = "mean") -> None:
        self.other, self.fill = other, checked_fill(fill)

    def check(self, context: Context, name: str) -> None:
        """Refuse a run without masks or without the other network."""
        super().check(context, name)
        self._network(context)

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """Rows of every view."""
        network = self._network(context).to(batch.image.device)
        masks = context.masks(batch)
        after = context.maps_of(batch.image, batch.ids, None, network)
        use = self._use(context, batch, masks, network)
        for view, values in maps.maps.items():
            own = energy_inside(values, masks)
            other = energy_inside(after.maps[view], masks)
            # Its map says nothing here; the run drops images without a map of its own only.
            other = other.masked_fill(~after.finite.to(other.device), torch.nan)
            yield Measured(
                view,
                values={
                    "contrast": own - other,
                    "energy_inside": own,
                    "energy_inside_other": other,
                    "mask_share": masks.double().mean((1, 2)),
                    **use,
                },
            )

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """How much more the run's network uses the mask, on how many images its map lies on it
        more, and what a random map gets; intervals are over images."""
        images = scores.drop_duplicates("sample_id")
        own, other = (images[name].astype(float) for name in ("flips", "flips_other"))
        more = bootstrap_interval(own - other)
        higher = []
        for (method, view), group in scores.groupby(["method", "view"], observed=True, sort=False):
            known = group["contrast"].dropna()
            if len(known):
                found = accuracy_interval(int((known > 0).sum()), len(known))
                higher.append({"method": method, "view": view, **found._asdict()})
        return {
            "fill": self.fill,
            "flips": float(own.mean()),
            "flips_other": float(other.mean()),
            "flips_more": {name: float(value) for name, value in more._asdict().items()},
            # The interval of one image has no width.
            "used_more": len(images) > 1 and float(more.low) > 0,
            "higher": higher,
            "random_map": {"contrast": 0.0, "energy_inside": float(images["mask_share"].mean())},
        }

    def _use(
        self, context: Context, batch: Batch, masks: Tensor, network: nn.Module
    ) -> dict[str, Tensor]:
        """Whether covering the mask changes what each network predicts, bool (B,)."""
        generator = context.generator(batch.ids, "contrast")
        fill = fill_for(replacement(batch.image, self.fill, generator), masks)

        def other_logits(images: Tensor) -> Tensor:
            parts = context.model.maps(
                lambda rows: intact_logits(network, images[rows]), len(images)
            )
            return torch.cat(parts)

        return {
            "flips": flips(context.model.logits, batch.image, masks, fill),
            "flips_other": flips(other_logits, batch.image, masks, fill),
        }

    def _network(self, context: Context) -> nn.Module:
        if self.other is None:
            raise UserError(
                f"Expected `{KEY}` to be a checkpoint of a network trained on the same images with "
                "other labels (data=pasted data.classes_are=scene), but got null."
            )
        network: nn.Module = other_classifier(context, self.other, KEY).network
        return network
