"""Deletion and insertion curves of saliency maps, as a callback of Lightning's test loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.views import Channels, View
from saliency_lab.attribution.maps import (
    BatchMaps,
    Source,
    maps,
    reads_layers,
    require_finite,
    view_names,
)
from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.cost import CostMeter
from saliency_lab.evaluation.deletion.curves import CurveScores, MaskingJob, Mode, masked_scores
from saliency_lab.evaluation.deletion.removal import Protocol, checked_fractions, deletion_levels
from saliency_lab.evaluation.deletion.rows import block_rows
from saliency_lab.evaluation.rows.shards import Parts
from saliency_lab.imputation.fills import checked_fill, fill_images
from saliency_lab.inference.engine import Engine, PreparedModel
from saliency_lab.inference.memory import is_out_of_memory

log = logging.getLogger(__name__)

# Images per block unless they are large or the user says otherwise.
_BLOCK = 100

# The pairs that the reference reports: maps of what speaks for the class lose it to black, maps
# of what speaks against darkening to white.
PAPER_PAIRS: dict[str, tuple[str, ...]] = {
    "original": ("black", "white"),
    "positive": ("black",),
    "active": ("black",),
    "negative": ("white",),
    "inactive": ("white",),
}


@dataclass(frozen=True)
class DeletionSettings:
    """How faithfulness is measured: the `evaluator` group."""

    protocol: Protocol
    modes: tuple[Mode, ...]
    fills: Literal["paper"] | tuple[str, ...]
    fractions: tuple[float, ...]
    split: Literal["test", "train"]
    batch_size: int | None
    on_nonfinite: Literal["error", "skip"]
    examples: int
    resamples: int

    def fills_of(self, view: str) -> tuple[str, ...]:
        """What deleted pixels of a view's map are replaced by."""
        return PAPER_PAIRS[view] if self.fills == "paper" else self.fills

    def block_size(self, shape: tuple[int, int, int], device: torch.device) -> int:
        """Images (C, H, W) per block, where none is set: 100, on a CPU fewer if they are large.

        A block is what a kill loses and what progress is told by. A source may take half a minute
        for an image of 224×224 on a CPU, where small batches cost nothing; a GPU wants many.
        """
        if self.batch_size is not None:
            return self.batch_size
        _, height, width = shape
        return _BLOCK if device.type != "cpu" else min(_BLOCK, max(16, 2**19 // (height * width)))


def deletion(
    *,
    protocol: Protocol = "paper",
    modes: Sequence[Mode] = ("deletion",),
    fills: Literal["paper"] | Sequence[str] = "paper",
    fractions: Sequence[Annotated[float, Ge(0)]] | None = None,
    split: Literal["test", "train"] = "test",
    batch_size: Annotated[int, Gt(0)] | None = None,
    on_nonfinite: Literal["error", "skip"] = "error",
    examples: Annotated[int, Ge(0)] = 50,
    resamples: Annotated[int, Gt(0)] = 1000,
) -> DeletionSettings:
    """The settings of the `evaluator` group.

    Args:
        protocol, fractions: see `saliency_lab.evaluation.deletion.removal.deletion_levels`.
        modes: `deletion`, `insertion` or both.
        fills: `paper` reports black for original, positive and active, and white for original,
            negative and inactive; or a list of fills for every view.
        split: the images to measure on.
        batch_size: images per block; a block is computed, written and resumed as one. None
            chooses, see `DeletionSettings.block_size`.
        on_nonfinite: `skip` counts and leaves out images with NaN or infinite logits or maps.
        examples: images kept with their maps for the report, drawn at random by seed.
        resamples: bootstrap resamples of each interval.

    Raises:
        UserError: an unknown fill or unusable fractions.
    """
    chosen: Literal["paper"] | tuple[str, ...] = "paper"
    if not isinstance(fills, str):
        chosen = tuple(checked_fill(fill) for fill in fills)
    if not chosen or not modes:
        raise UserError("Expected `evaluator.fills` and `evaluator.modes` not to be empty")
    return DeletionSettings(
        protocol,
        tuple(modes),
        chosen,
        checked_fractions(fractions, protocol),
        split,
        batch_size,
        on_nonfinite,
        examples,
        resamples,
    )


@dataclass(frozen=True)
class Method:
    """A source of attributions and the views of it that are measured."""

    name: str
    source: Source
    views: tuple[View, ...]
    channels: Channels = "max"
    competitors: int | None = None

    @classmethod
    def of(cls, name: str, source: Source, view: Mapping[str, Any]) -> Method:
        """A method with the settings of the `view` group."""
        return cls(
            name,
            source,
            view_names(source, view["names"]),
            view["channels"],
            view["competitors"],
        )


class DeletionEvaluator(pl.Callback):
    """Takes each test batch, calls the pure functions and writes its rows.

    Args:
        settings, method, engine, seed: what is measured and how.
        parts: where the rows go.
        kept: indices of the images that are kept as examples.
        earlier: how the model was run on the blocks that were done before (`PreparedModel.report`).
    """

    def __init__(
        self,
        settings: DeletionSettings,
        method: Method,
        engine: Engine,
        parts: Parts,
        kept: NDArray[np.int64],
        seed: int,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.method = method
        self.engine = engine
        self.parts = parts
        self.kept = set(kept.tolist())
        self.seed = seed
        self.earlier = earlier or {}
        self._prepared: PreparedModel | None = None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        model = self._model(pl_module, batch.image)
        number = int(batch.index[0]) // self.parts.block
        with CostMeter(model.original, model.model) as cost:
            found = self._maps(model, batch)
            cost.mark("maps")
            skipped = self._skipped(found, batch)
            levels: dict[str, Tensor] = {}
            for view in self.method.views:
                levels[view] = self._levels(found.maps[view])
            intact = model.logits(batch.image) if found.logits is None else found.logits
            scored = self._scores(model, batch, intact, levels)
            cost.mark("curves")
        rows = block_rows(
            batch, self.method.name, self.settings.fractions, intact.argmax(1), scored, skipped
        )
        meta = {
            "skipped": skipped,
            "images": len(batch.ids),
            "cost": cost.totals(),
            "engine": model.report(),
            "completeness": _sums(found, batch),
        }
        self.parts.write(number, rows, meta, self._examples(batch, intact, found, levels))

    def _model(self, pl_module: pl.LightningModule, images: Tensor) -> PreparedModel:
        """The classifier made ready, once, when the first batch and its device are there."""
        if self._prepared is None:
            network = pl_module.network
            if not isinstance(network, nn.Module):
                raise TypeError(f"Expected a network, but got {type(network).__name__}")
            self._prepared = self._ready(network, images)
            self._prepared.resume(self.earlier)
        return self._prepared

    def _ready(self, network: nn.Module, images: Tensor) -> PreparedModel:
        """The network made ready on as many of these images as fit into the memory."""
        sample = images
        while True:
            try:
                return self.engine.prepare(network, sample)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(sample) == 1:
                    raise
            sample = sample[: len(sample) // 2]
            log.warning("out of memory: the model is made ready on %d images", len(sample))

    def _maps(self, model: PreparedModel, batch: Batch) -> BatchMaps:
        network = model.original if reads_layers(self.method.source) else model.model

        def compute(rows: slice) -> BatchMaps:
            return maps(
                network,
                batch.image[rows],
                self.method.source,
                self.method.views,
                channels=self.method.channels,
                competitors=self.method.competitors,
                generator=SampleGenerator(self.seed, batch.ids[rows]),
            )

        return BatchMaps.joined(model.maps(compute, len(batch.ids)))

    def _skipped(self, found: BatchMaps, batch: Batch) -> list[str]:
        if self.settings.on_nonfinite == "error":
            require_finite(found.finite, batch.ids)
        return [s for s, ok in zip(batch.ids, found.finite.tolist(), strict=True) if not ok]

    def _levels(self, values: Tensor) -> Tensor:
        # Images with a NaN are left out of the rows; a sort needs a number all the same.
        return deletion_levels(values.nan_to_num(), self.settings.fractions, self.settings.protocol)

    def _scores(
        self,
        model: PreparedModel,
        batch: Batch,
        intact: Tensor,
        levels: Mapping[str, Tensor],
    ) -> dict[tuple[str, str, str], CurveScores]:
        jobs: dict[tuple[str, str, str], MaskingJob] = {}
        fills: dict[str, Tensor] = {}
        for view in self.method.views:
            for mode in self.settings.modes:
                for fill in self.settings.fills_of(view):
                    if fill not in fills:
                        noise = SampleGenerator(self.seed, [f"fill/{i}" for i in batch.ids])
                        fills[fill] = fill_images(batch.image, fill, noise)
                    jobs[view, mode, fill] = MaskingJob(levels[view], fills[fill], mode)
        scores = masked_scores(
            model.scores,
            batch.image,
            list(jobs.values()),
            len(self.settings.fractions),
            batch_size=model.scores_batch,
            intact=intact,
        )
        return dict(zip(jobs, scores, strict=True))

    def _examples(
        self, batch: Batch, logits: Tensor, found: BatchMaps, levels: Mapping[str, Tensor]
    ) -> dict[str, NDArray[Any]] | None:
        chosen = [i for i, index in enumerate(batch.index.tolist()) if index in self.kept]
        if not chosen:
            return None
        pixels = (batch.image[chosen] * 255).round().to(torch.uint8)
        arrays: dict[str, NDArray[Any]] = {
            "ids": np.array([batch.ids[i] for i in chosen]),
            "labels": batch.label[chosen].cpu().numpy(),
            "predictions": logits[chosen].argmax(1).cpu().numpy(),
            "images": pixels.cpu().numpy(),
        }
        for view in self.method.views:
            name = f"{self.method.name}/{view}"
            arrays[f"map:{name}"] = _scaled(found.maps[view][chosen]).half().cpu().numpy()
            arrays[f"levels:{name}"] = levels[view][chosen].cpu().numpy()
        return arrays


def _sums(found: BatchMaps, batch: Batch) -> list[tuple[str, float, float]]:
    """Id, sum of attributions and what it should be, of a source that claims completeness."""
    if found.completeness is None:
        return []
    return list(zip(batch.ids, *(v.double().tolist() for v in found.completeness), strict=True))


def _scaled(values: Tensor) -> Tensor:
    """Maps (B, H, W) scaled to [0, 1] per image, for the eye; a constant map becomes 0."""
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
