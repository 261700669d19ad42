"""The loop of an evaluation: the maps of each block made once and handed to every evaluator."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_lab.attribution.core.sources import reads_layers
from saliency_lab.attribution.maps import BatchMaps, require_finite
from saliency_lab.data.batch import Batch
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError, in_section
from saliency_lab.evaluation.base import Evaluator, measured_rows
from saliency_lab.evaluation.context import Context, Found, Method, found_maps
from saliency_lab.evaluation.cost import CostMeter
from saliency_lab.evaluation.kept_maps import KeptMaps
from saliency_lab.evaluation.retraining.conditions import Retrained
from saliency_lab.evaluation.rows.shards import Shards
from saliency_lab.inference.engine import Engine, PreparedModel
from saliency_lab.inference.memory import is_out_of_memory

log = logging.getLogger(__name__)

# Images per block unless they are large or the user says otherwise.
_BLOCK = 100

MAPS = "maps"
"""The label under which maps, examples and intact logits are recorded beside the evaluators."""


class MeasuredNetwork(pl.LightningModule):
    """A network that goes through the test loop untouched: evaluators call it, in parts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: a forward of the whole batch here would be one that no one reads."""


@dataclass(frozen=True)
class Plan:
    """What a run measures and how.

    Attributes:
        evaluators: by label.
        shards: of each evaluator and of `MAPS`, whose rows are the intact images' predictions.
        kept_maps: where maps are kept; None where they are not.
        examples: positions in the split of the images that are kept with their maps.
        earlier: how the model was run on the blocks that were done before (`PreparedModel.report`).
    """

    evaluators: Mapping[str, Evaluator]
    shards: Mapping[str, Shards]
    method: Method
    engine: Engine
    data: ImageData
    split: Literal["train", "test"]
    seed: int
    on_nonfinite: Literal["error", "skip"] = "error"
    kept_maps: KeptMaps | None = None
    examples: frozenset[int] = frozenset()
    training: Path | None = None
    retrained: Retrained | None = None
    earlier: Mapping[str, Any] = field(default_factory=dict)


def block_size(wanted: int | None, shape: tuple[int, int, int], device: torch.device) -> int:
    """Images (C, H, W) per block, where none is wanted: 100, on a CPU fewer if they are large.

    A block is what a kill loses and what progress is told by. A method may take half a minute for
    an image of 224×224 on a CPU, where small batches cost nothing; a GPU wants many.
    """
    if wanted is not None:
        return wanted
    _, height, width = shape
    return _BLOCK if device.type != "cpu" else min(_BLOCK, max(16, 2**19 // (height * width)))


class EvaluationLoop(pl.Callback):
    """Takes each test batch, makes or reads its maps, and lets every evaluator measure them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._context: Context | None = None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        network = pl_module.network
        if not isinstance(network, nn.Module):
            raise TypeError(f"Expected a network, but got {type(network).__name__}")
        if self._context is None:
            self._context = self._begun(network, batch.image)
        measure_block(self.plan, self._context, batch)

    def _begun(self, network: nn.Module, images: Tensor) -> Context:
        """The context, once, when the first batch and its device are there."""
        plan = self.plan
        model = prepared(plan.engine, network, images)
        model.resume(plan.earlier)
        method = with_fast_support(plan.method, model, images)
        context = Context(
            model, method, plan.data, plan.split, plan.seed, plan.training, plan.retrained
        )
        for label, evaluator in plan.evaluators.items():
            evaluator.check(context, label)
        return context


def prepared(engine: Engine, network: nn.Module, images: Tensor) -> PreparedModel:
    """The network made ready on as many of these images as fit into the memory."""
    sample = images
    while True:
        try:
            return engine.prepare(network, sample)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(sample) == 1:
                raise
        sample = sample[: len(sample) // 2]
        log.warning("out of memory: preparing the model on %d images instead", len(sample))


def with_fast_support(method: Method, model: PreparedModel, images: Tensor) -> Method:
    """The method with its support models, if it has any, run as the model itself is.

    Otherwise a network that was trained to be the model, and is it to the last digit, would be
    asked by other arithmetic, and pixels at the threshold would differ.
    """
    support = getattr(method.source, "keywords", {}).get("support")
    if support is None or reads_layers(method.source):
        return method
    tried = images[: model.maps_batch]
    fast = support.each(
        lambda network: model.model if network is model.original else model.alike(network, tried)
    )
    source = functools.partial(method.source, support=fast)
    return dataclasses.replace(method, source=source, unprepared=method.source)


def measure_block(plan: Plan, context: Context, batch: Batch) -> None:
    """Measure a block with every evaluator that has not yet, and write its shards."""
    own = plan.shards[MAPS]
    number = int(batch.index[0]) // own.block
    model = context.model
    with CostMeter(model.original, model.model) as cost:
        batch_maps = _block_maps(plan, context, batch, number)
        cost.mark(MAPS)
        skipped = _skipped(plan, batch_maps, batch)
        found = found_maps(batch_maps)
        for label, evaluator in plan.evaluators.items():
            if not plan.shards[label].has(number):
                rows = block_rows(evaluator, label, context, batch, found)
                cost.mark(label)
                meta = {"images": len(batch.ids), "cost": cost.totals(label)}
                rows = rows[~rows["sample_id"].isin(skipped)] if skipped else rows
                examples = _chosen(plan, batch)
                arrays = None
                if examples:
                    arrays = evaluator.example_arrays(context, batch, found, examples)
                plan.shards[label].write(number, rows, meta, arrays)
    meta = {
        "skipped": skipped,
        "images": len(batch.ids),
        "cost": cost.totals(MAPS),
        "engine": model.report(),
        "pixels": _pixels(plan, batch),
        "completeness": _per_image(batch_maps.completeness, batch, skipped),
        "estimate": _per_image(batch_maps.estimate, batch, skipped),
    }
    # Last, so that a block with these rows is whole.
    own.write(
        number, _intact_rows(batch, batch_maps.logits, skipped), meta, _examples(plan, batch, found)
    )


def block_maps(context: Context, batch: Batch) -> BatchMaps:
    """The maps of a block; errors name settings of the method as the command line does."""
    with in_section("method", getattr(context.method.source, "keywords", {})):
        return context.maps_of(batch.image, batch.ids)


def block_rows(
    evaluator: Evaluator, label: str, context: Context, batch: Batch, found: Found
) -> pd.DataFrame:
    """An evaluator's rows of a block; errors name its settings as the command line does."""
    section = f"evaluator.{label.partition('+')[0]}"
    with in_section(section, inspect.signature(type(evaluator)).parameters):
        measured = evaluator.measure(context, batch, found)
        # Here, too: what measures may do so as its rows are asked for.
        return measured_rows(evaluator, batch, context.method.name, measured)


def _pixels(plan: Plan, batch: Batch) -> str:
    return plan.data.split(plan.split).content(batch.index.cpu().numpy())


def _block_maps(plan: Plan, context: Context, batch: Batch, number: int) -> BatchMaps:
    start, kept = number * plan.shards[MAPS].block, plan.kept_maps
    pixels = _pixels(plan, batch) if kept is not None else ""
    if kept is not None and kept.has(start, batch.ids, pixels):
        return kept.read(start, len(batch.ids), batch.image.device)
    found = block_maps(context, batch)
    if kept is not None:
        kept.write(start, batch.ids, found, pixels)
    return found


def _skipped(plan: Plan, found: BatchMaps, batch: Batch) -> list[str]:
    if plan.on_nonfinite == "error":
        try:
            require_finite(found.finite, batch.ids)
        except UserError as error:
            raise UserError(
                f"{error} on_nonfinite=skip counts and leaves out such images."
            ) from error
    return [s for s, ok in zip(batch.ids, found.finite.tolist(), strict=True) if not ok]


def _intact_rows(batch: Batch, logits: Tensor, skipped: list[str]) -> pd.DataFrame:
    """The classifier's own answers, from which the accuracy comes."""
    rows = pd.DataFrame(
        {
            "sample_id": np.array(batch.ids, dtype=object),
            "index": batch.index.cpu().numpy(),
            "label": batch.label.cpu().numpy(),
            "prediction": logits.argmax(1).cpu().numpy(),
        }
    )
    return rows[~rows["sample_id"].isin(skipped)]


def _chosen(plan: Plan, batch: Batch) -> list[int]:
    return [at for at, index in enumerate(batch.index.tolist()) if index in plan.examples]


def _examples(plan: Plan, batch: Batch, found: Found) -> dict[str, NDArray[Any]] | None:
    chosen = _chosen(plan, batch)
    if not chosen:
        return None
    pixels = (batch.image[chosen] * 255).round().to(torch.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "ids": np.array([batch.ids[at] for at in chosen]),
        "labels": batch.label[chosen].cpu().numpy(),
        "predictions": found.logits[chosen].argmax(1).cpu().numpy(),
        "images": pixels.cpu().numpy(),
    }
    for view, values in found.maps.items():
        name = f"map:{plan.method.name}/{view}"
        arrays[name] = _scaled(values[chosen]).half().cpu().numpy()
    return arrays


def _per_image(
    columns: Sequence[Tensor] | None, batch: Batch, skipped: list[str]
) -> list[tuple[str, float, float]]:
    """Id and two numbers of each image that counts, of a method that knows them."""
    if columns is None:
        return []
    rows = zip(batch.ids, *(v.double().tolist() for v in columns), strict=True)
    return [row for row in rows if row[0] not in skipped]


def _scaled(values: Tensor) -> Tensor:
    """Maps (B, H, W) scaled to [0, 1] per image, for the eye; a constant map becomes 0."""
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
