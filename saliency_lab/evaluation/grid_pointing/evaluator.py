"""Whether maps point at the right cell of a grid of images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from saliency_lab.attribution.maps import BatchMaps
from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.grid_pointing.grids import SeparateCells, cell_shares, tiled
from saliency_lab.evaluation.grid_pointing.rivals import (
    compositions,
    confident,
    confident_pool,
)
from saliency_lab.evaluation.perturbation import NonFiniteAlteredError

# Views that show what speaks against the class, and so belong into the rivals' cells.
AGAINST = ("negative", "inactive")


_NO_CELLS = (
    "DiFull is left out, because the method cannot explain a network whose classes read their own "
    "cells alone (evaluator.grid_pointing.separate=true says why)"
)


@dataclass(frozen=True)
class _Grids:
    """Grids of some images of a batch, all of one size."""

    side: int
    ids: list[str]
    images: Tensor
    """(G, C, side·H, side·W)."""
    own: Tensor
    """int64 (G,), the cell of each image."""
    classes: Tensor
    """int64 (G, side²), the label of every cell."""


class GridPointing(Evaluator):
    """Grids of confidently classified images of different classes (GridPG and DiFull).

    For each image of the batch that is classified rightly with enough confidence there is a grid
    per side n: the image in a cell drawn at random, the n² − 1 others of different classes, drawn
    from the same split, everything by the image's id. The image's class is explained, once for the
    network as it is (`grid`, GridPG), and once for one in which each class reads its own cell only
    (`separate`, DiFull), where the gradient is 0 elsewhere by construction.

    - `pointing`: the share of the map's positive part in the cells that the view belongs into: the
      own cell; for negative and inactive, in the setting `grid`, the rivals' cells;
    - `chance`: that of a random map, 1/n², or 1 − 1/n² for the rivals' cells;
    - `own_cell`: the share in the own cell, whatever the view.

    Args:
        sides: cells in a row, each 2 or more; n² at most the number of classes.
        confidence: least probability of the right class (0.99 in the paper, 0.5 in later work).
        count: at most so many images of the split are tried, drawn by the run's seed.
        separate: whether DiFull is measured as well; `auto`: where the method can explain a network
            whose classes read their own cell alone, which Grad-CAM cannot.

    Source: Rao, Böhle, Schiele, "Towards better understanding attribution methods", 2022; the
    pointing game on grids: Böhle, Fritz, Schiele, "Convolutional dynamic alignment networks", 2021.
    """

    keys: ClassVar[tuple[str, ...]] = ("setting", "side")
    scores: ClassVar[tuple[Score, ...]] = (
        Score("pointing", "higher", 0, 1),
        Score("chance", None, 0, 1),
        Score("own_cell", None, 0, 1),
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"source"})

    def __init__(
        self,
        *,
        sides: Sequence[Annotated[int, Ge(2)]] = (2, 3),
        confidence: Annotated[float, Ge(0), Le(1)] = 0.99,
        count: Annotated[int, Gt(0)] = 500,
        separate: bool | Literal["auto"] = "auto",
    ) -> None:
        self.sides, self.confidence, self.count = tuple(sides), confidence, count
        self.separate = separate

    def fits(self, context: Context) -> bool:
        """Whether enough classes have an image of the confidence for the largest grid."""
        return sum(bool(found) for found in self._pool(context)) >= max(self.sides) ** 2

    def check(self, context: Context, name: str) -> None:
        super().check(context, name)
        channels, height, width = context.data.input_shape
        for side in self.sides:
            grid = torch.zeros(1, channels, side * height, side * width)
            try:
                context.model.logits(grid)
            except (RuntimeError, ValueError, AssertionError) as error:
                raise UserError(
                    f"Expected `model` to take grids of {side * height}×{side * width} pixels for "
                    f"evaluator={name}, but got: {' '.join(str(error).split())[:200]}"
                ) from error
        if self.separate is True:
            _cell_maps(context, _blank_grid(context))

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        rows = self._rows(context, batch, maps.logits)
        if not rows:
            # Whether a batch has a grid is chance: its rows are those of any other.
            absent = torch.full((len(batch.ids),), torch.nan)
            settings = ("grid", "separate") if self._separates(context) else ("grid",)
            for side, setting, view in itertools.product(self.sides, settings, maps.maps):
                columns = {score.name: absent for score in self.scores}
                yield Measured(view, {"setting": setting, "side": side}, columns)
            return
        for side in self.sides:
            grids = self._grids(context, batch, rows, side)
            yield from _measured(batch, rows, grids, "grid", _grid_maps(context, grids))
            if self._separates(context):
                yield from _measured(batch, rows, grids, "separate", _cell_maps(context, grids))

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of images that have a grid."""
        return rows[rows["pointing"].notna()]

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        found = {"confidence": self.confidence, "grids": int(scores["sample_id"].nunique())}
        if self.separate == "auto" and "separate" not in set(rows["setting"]):
            return {**found, "warnings": [_NO_CELLS]}
        return found

    def _separates(self, context: Context) -> bool:
        if self.separate == "auto":
            return context.kept(("separate cells",), lambda: _takes_separate_cells(context))
        return self.separate

    def _pool(self, context: Context) -> list[list[int]]:
        """Images of enough confidence by class, found once in a process."""
        return context.kept(
            ("grid_pointing", self.confidence), lambda: confident_pool(context, self.confidence)
        )

    def _rows(self, context: Context, batch: Batch, logits: Tensor) -> list[int]:
        """Places in the batch of the images that have grids."""
        size = len(context.data.ids(context.split))
        drawn = np.random.default_rng([context.seed, 8]).permutation(size)[: self.count]
        tried = set(drawn.tolist())
        keep = confident(logits, batch.label, self.confidence).tolist()
        return [at for at, row in enumerate(batch.index.tolist()) if keep[at] and row in tried]

    def _grids(self, context: Context, batch: Batch, rows: list[int], side: int) -> _Grids:
        ids = [batch.ids[at] for at in rows]
        labels = context.data.labels(context.split)
        built, classes = [], []
        chosen = compositions(context, ids, batch.label[rows].tolist(), self._pool(context), side)
        for at, (own, rivals) in zip(rows, chosen, strict=True):
            pixels = torch.from_numpy(context.data.images(context.split, rivals))
            others = pixels.to(batch.image) / 255
            # In bytes, as the others are: an own cell in finer steps would be told apart by them.
            image = (batch.image[at][None] * 255).round() / 255
            cells = torch.cat([others[:own], image, others[own:]])
            built.append(tiled(cells[None], side)[0])
            classes.append([*labels[rivals[:own]], int(batch.label[at]), *labels[rivals[own:]]])
        owns = torch.tensor([own for own, _ in chosen], device=batch.image.device)
        every = torch.from_numpy(np.array(classes, dtype=np.int64)).to(batch.image.device)
        return _Grids(side, ids, torch.stack(built), owns, every)


def _takes_separate_cells(context: Context) -> bool:
    """Whether the run's method explains a network whose classes read their own cell alone."""
    try:
        _cell_maps(context, _blank_grid(context))
    except UserError:
        return False
    return True


def _blank_grid(context: Context) -> _Grids:
    """One 2×2 grid of grey images, to try a method on."""
    channels, height, width = context.data.input_shape
    weights = next(context.model.original.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    grey = torch.full((1, channels, 2 * height, 2 * width), 0.5, device=device)
    own = torch.zeros(1, dtype=torch.int64, device=device)
    classes = torch.arange(4, device=device)[None] % context.data.num_classes
    return _Grids(2, ["grey"], grey, own, classes)


def _grid_maps(context: Context, grids: _Grids) -> Mapping[str, Tensor]:
    """Maps of the own classes on the network as it is, in parts as large as the grids allow."""
    targets = grids.classes.gather(1, grids.own[:, None])[:, 0]
    part = max(1, context.model.maps_batch // grids.side**2)
    found = [
        context.maps_of(grids.images[at], grids.ids[at], targets[at])
        for at in (slice(start, start + part) for start in range(0, len(grids.ids), part))
    ]
    return _joined(found, grids)


def _cell_maps(context: Context, grids: _Grids) -> Mapping[str, Tensor]:
    """Maps on networks of separate cells, one by one, because each grid's classes are its own."""
    found = []
    for number, name in enumerate(grids.ids):
        model = SeparateCells(context.model.original, grids.classes[number], grids.side)
        at = slice(number, number + 1)
        try:
            batch_maps = context.maps_of(grids.images[at], [name], grids.own[at], model)
        except UserError as error:
            raise UserError(
                f"{error} (on a network of separate cells, which "
                "evaluator.grid_pointing.separate=false leaves out)"
            ) from error
        found.append(batch_maps)
    return _joined(found, grids)


def _joined(parts: list[BatchMaps], grids: _Grids) -> Mapping[str, Tensor]:
    found = BatchMaps.joined(parts)
    if not bool(found.finite.all()):
        lost = [name for name, ok in zip(grids.ids, found.finite.tolist(), strict=True) if not ok]
        raise NonFiniteAlteredError(lost, "grids of images", "logits and maps")
    return found.maps


def _measured(
    batch: Batch, rows: list[int], grids: _Grids, setting: str, maps: Mapping[str, Tensor]
) -> Iterable[Measured]:
    """Scores of the whole batch; NaN for images without a grid."""
    for view, values in maps.items():
        own = cell_shares(values, grids.side).gather(1, grids.own[:, None])[:, 0]
        chance = 1 / grids.side**2
        against = setting == "grid" and view in AGAINST
        columns = {
            "pointing": 1 - own if against else own,
            "chance": torch.full_like(own, 1 - chance if against else chance),
            "own_cell": own,
        }
        spread = {}
        for name, found in columns.items():
            spread[name] = found.new_full((len(batch.ids),), torch.nan)
            spread[name][rows] = found
        yield Measured(view, {"setting": setting, "side": grids.side}, spread)
