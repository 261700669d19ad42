"""Does a map depend on what the model learned? Layers drawn anew, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.randomisation.complexity import histogram_entropy, relative_rise
from saliency_lab.evaluation.randomisation.gate import gate_table, image_means, layer_curves
from saliency_lab.evaluation.randomisation.redrawing import (
    Layer,
    Mixtures,
    grouped,
    layers,
    redrawn,
)
from saliency_lab.evaluation.randomisation.similarity import RANGES, SIMILARITIES, similarities

Mode = Literal["cascading", "independent", "bottom_up"]
Maps = Mapping[str, Tensor]


class Randomisation(Evaluator):
    """Similarity of each map to the same image's map once layers of the model are drawn anew.

    `cascading` draws layers anew from the output downwards and keeps them so, `bottom_up` from the
    input upwards, `independent` one at a time; `full` is the end of both, where nothing learned is
    left. The class that is explained stays the one that the intact model explains. The test is a
    gate and no score: a map that stays the same cannot show what the model learned, but one that
    changes more is not better than one that changes less.

    The plain test punishes noisy maps, which change anyway, and forgives smooth ones, which look
    alike whatever they show. `smooth` averages each map over noisy copies of its image, before and
    after; `entropy_rise` compares no pixels at all: the entropy of the map's histogram should rise
    as a map turns into noise. A noisy map starts near the largest entropy, so that it cannot rise:
    a small rise convicts smooth maps only.

    A method that draws random numbers draws the same ones before and after, so that a map that
    does not ask the model at all stays exactly the same.

    Args:
        modes: the orders in which layers are drawn anew; `full` is always measured.
        draws: how often all weights are drawn.
        steps: at most that many groups of neighbouring layers; None: every module by itself.
        noisy_copies: of each image for the smooth variant; 0 leaves it out.
        noise: standard deviation of that noise as a share of the image's own range.
        share: of the most important pixels that `top_k` compares.
        bins: of the histogram whose entropy is taken.
        passed_below: a test is passed where the interval of the mean rank correlation lies below.
        failed_above: it is failed where that interval lies above; undecided otherwise.

    Source: Adebayo et al., "Sanity checks for saliency maps", 2018; smooth and efficient variants:
    Hedström et al., "Sanity checks revisited", 2024.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        *(Score(name, None, *RANGES[name]) for name in SIMILARITIES),
        Score("entropy_rise"),
    )
    role: ClassVar[Role] = "gate"
    keys: ClassVar[tuple[str, ...]] = ("mode", "variant", "draw", "step", "layer")
    conditions: ClassVar[tuple[str, ...] | None] = ("mode", "variant")
    needs: ClassVar[frozenset[Need]] = frozenset({"source", "layers", "other_model"})
    sections: ClassVar[str | None] = "saliency_lab.evaluation.randomisation.sections"

    def __init__(
        self,
        *,
        modes: Sequence[Mode] = ("cascading", "independent", "bottom_up"),
        draws: Annotated[int, Gt(0)] = 2,
        steps: Annotated[int, Gt(0)] | None = 12,
        noisy_copies: Annotated[int, Ge(0)] = 0,
        noise: Annotated[float, Gt(0)] = 0.15,
        share: Annotated[float, Gt(0), Le(1)] = 0.1,
        bins: Annotated[int, Gt(1)] = 100,
        passed_below: Annotated[float, Ge(-1), Le(1)] = 0.3,
        failed_above: Annotated[float, Ge(-1), Le(1)] = 0.5,
    ) -> None:
        if passed_below > failed_above:
            raise UserError(
                "Expected `evaluator.randomisation.passed_below` to be at most failed_above "
                f"({failed_above}), but got {passed_below}."
            )
        self.modes, self.draws, self.steps = tuple(modes), draws, steps
        self.noisy_copies, self.noise = noisy_copies, noise
        self.share, self.bins = share, bins
        self.passed_below, self.failed_above = passed_below, failed_above

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """Rows of every view, mode, draw and step."""
        groups = self._groups(context, batch.image)
        intact: dict[str, Maps] = {"plain": maps.maps}
        if self.noisy_copies:
            intact["smooth"] = self._smooth(context, batch, maps.targets, None)
        for draw in range(self.draws):
            mixtures = _mixtures(context, draw)
            known: dict[frozenset[Layer], dict[str, dict[str, dict[str, Tensor]]]] = {}
            for mode, step, name, chosen in _plan(groups, self.modes):
                if chosen not in known:
                    model = mixtures.model(chosen)
                    known[chosen] = self._compared(context, batch, maps.targets, model, intact)
                for variant, views in known[chosen].items():
                    keys = {"mode": mode, "variant": variant, "draw": draw}
                    keys |= {"step": step, "layer": name}
                    for view, values in views.items():
                        yield Measured(view, keys, values)

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Per image, map, mode and variant the mean over draws and steps."""
        return image_means(rows, [score.name for score in self.scores])

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """The verdict on every map beside its interval and the thresholds."""
        verdicts = gate_table(rows, self.passed_below, self.failed_above)
        thresholds = {"passed_below": self.passed_below, "failed_above": self.failed_above}
        return {"gate": verdicts, "thresholds": thresholds}

    def tables(self, rows: pd.DataFrame, resamples: int) -> dict[str, pd.DataFrame]:
        """Mean similarity with its interval after each step."""
        names = [score.name for score in self.scores]
        return {"randomisation": layer_curves(rows, names, resamples)}

    def example_arrays(
        self, context: Context, batch: Batch, maps: Found, chosen: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """Of the chosen images' maps what is left after each cascading step of the first draw.

        uint8 (n, S, H, W) by view, each map scaled from its least to its largest value.
        """
        if "cascading" not in self.modes:
            return {}
        mixtures, rows = _mixtures(context, 0), list(chosen)
        steps: dict[str, list[Tensor]] = {view: [] for view in maps.maps}
        for mode, _, _, drawn in _plan(self._groups(context, batch.image), ("cascading",)):
            if mode != "cascading":
                continue
            ids = [batch.ids[row] for row in rows]
            model = mixtures.model(drawn)
            found = context.maps_of(batch.image[rows], ids, maps.targets[rows], model)
            for view, values in found.maps.items():
                steps[view].append(_drawn(values))
        return {
            f"steps:{view}": torch.stack(parts, 1).cpu().numpy() for view, parts in steps.items()
        }

    def _groups(self, context: Context, images: Tensor) -> tuple[Layer, ...]:
        model = context.model.original
        key = ("randomisation layers", self.steps)
        return context.kept(key, lambda: grouped(layers(model, images), self.steps))

    def _compared(
        self,
        context: Context,
        batch: Batch,
        targets: Tensor,
        model: nn.Module,
        intact: Mapping[str, Maps],
    ) -> dict[str, dict[str, dict[str, Tensor]]]:
        """Variant to view to column to (B,)."""
        after: dict[str, Maps] = {}
        if "plain" in intact:
            after["plain"] = context.maps_of(batch.image, batch.ids, targets, model).maps
        if "smooth" in intact:
            after["smooth"] = self._smooth(context, batch, targets, model)
        return {
            variant: {view: self._values(intact[variant][view], found[view]) for view in found}
            for variant, found in after.items()
        }

    def _values(self, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        rise = relative_rise(
            histogram_entropy(after, self.bins), histogram_entropy(before, self.bins)
        )
        return {**similarities(before, after, share=self.share), "entropy_rise": rise}

    def _smooth(
        self, context: Context, batch: Batch, targets: Tensor, model: nn.Module | None
    ) -> Maps:
        """Each view's mean over noisy copies of the images; the same copies for every model."""
        streams = context.generator(batch.ids, "randomisation")
        images, total = batch.image, dict[str, Tensor]()
        spread = self.noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
        for _ in range(self.noisy_copies):
            noise = streams.normal(*images.shape[1:]).to(images)
            noisy = images + spread[:, None, None, None] * noise
            found = context.maps_of(noisy, batch.ids, targets, model)
            for view, values in found.maps.items():
                share = values / self.noisy_copies
                total[view] = total[view] + share if view in total else share
        return total


def _mixtures(context: Context, draw: int) -> Mixtures:
    model = context.model.original
    return context.kept(
        ("randomisation", draw), lambda: Mixtures(model, redrawn(model, context.seed, draw))
    )


def _drawn(values: Tensor) -> Tensor:
    """Maps (B, H, W) as uint8 for the eye; a constant or non-finite one is black."""
    values = values.nan_to_num(0, 0, 0)
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    scaled = (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    return (255 * scaled).round().to(torch.uint8)


def _plan(
    groups: Sequence[Layer], modes: Sequence[Mode]
) -> Iterator[tuple[str, int, str, frozenset[Layer]]]:
    """Mode, step from 1, the name of what the step draws anew, and all that is drawn anew then."""
    yield "full", len(groups), "(all)", frozenset(groups)
    downwards = groups[::-1]
    for mode in modes:
        order = groups if mode == "bottom_up" else downwards
        for step, layer in enumerate(order, start=1):
            chosen = [layer] if mode == "independent" else order[:step]
            yield mode, step, layer.name, frozenset(chosen)
