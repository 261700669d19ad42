"""A map's smoothed twin, and a context whose method gives twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from saliency_lab.attribution.maps import BatchMaps
from saliency_lab.evaluation.context import Context
from saliency_lab.imputation.fills import smoothed
from saliency_lab.imputation.names import BLUR_SHARE


def twins(maps: Mapping[str, Tensor], sigma: float) -> dict[str, Tensor]:
    """Each view's maps (B, H, W) under a Gaussian of sigma pixels."""
    return {view: smoothed(values[:, None], sigma)[:, 0] for view, values in maps.items()}


class SmoothedContext(Context):
    """A context that gives the smoothed twin of every map it is asked for."""

    @classmethod
    def of(cls, context: Context) -> SmoothedContext:
        """The same model, method and data; what is kept stays shared."""
        names = [entry.name for entry in dataclasses.fields(context)]
        return cls(**{name: getattr(context, name) for name in names})

    @property
    def sigma(self) -> float:
        """Of the smoothing: 10/224 of the data's shorter side, on larger grids of them as well."""
        return BLUR_SHARE * min(self.data.input_shape[1:])

    def maps_of(
        self,
        images: Tensor,
        ids: Sequence[str],
        targets: Tensor | None = None,
        model: nn.Module | None = None,
        change: Callable[[nn.Module], nn.Module] | None = None,
    ) -> BatchMaps:
        """See `Context.maps_of`."""
        found = super().maps_of(images, ids, targets, model, change)
        with torch.no_grad():
            return dataclasses.replace(found, maps=twins(found.maps, self.sigma))
