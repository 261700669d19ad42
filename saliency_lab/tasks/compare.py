"""Which of two maps is better? Images are drawn until it is decided: the task `compare`."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from saliency_lab.attribution.maps import require_finite
from saliency_lab.config.binding import built
from saliency_lab.data.batch import Batch, Split, channels_last_pixels
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.context import Context, found_maps
from saliency_lab.evaluation.loop import block_maps, block_rows, block_size, prepared
from saliency_lab.evaluation.rows.aggregation import conditions_of
from saliency_lab.evaluation.rows.decisions import (
    Decision,
    Rule,
    Stop,
    decisions,
    permutation,
    stops,
)
from saliency_lab.evaluation.rows.format import is_readable, rows_path
from saliency_lab.runs.agreement import agreed, gathered
from saliency_lab.runs.directory import begin, held, is_finished, refusable, say_running
from saliency_lab.runs.files import atomic_path
from saliency_lab.tasks.classifiers import configured_classifier, require_usable
from saliency_lab.tasks.components import checked, tracker
from saliency_lab.tasks.pairs import DRAWN, Comparison, compared, paired_differences
from saliency_lab.tasks.verdicts import finish_comparison, given_verdicts
from saliency_lab.tracking.records import record_comparison
from saliency_lab.training.components import data_module, lightning_trainer, require_unseen

log = logging.getLogger(__name__)

_SPLITS = ("test", "train")
_PIXELS = "pixels"
"""Beside the kept rows: the hash of the images that were drawn."""


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Draw images in one seeded order and measure both maps until the rule says stop.

    What was drawn by an earlier run, killed or finished, counts: a smaller `tolerance` or a larger
    `least` only draws what is still missing. Several processes measure one block each at a time and
    come to the same decision as one, for the rule looks at image after image in the order of the
    draw; they may have measured a few images more than it needed.

    Raises:
        UserError: unknown maps, a score without direction or range, no trained classifier.
    """
    if config["split"] not in _SPLITS:
        raise unknown_choice("split", config["split"], _SPLITS)
    rule = Rule(
        **{name: config[name] for name in ("alpha", "tolerance", "least", "kind", "correction")}
    )
    checked(config)
    comparison = compared(config)
    for method in comparison.methods.values():
        require_usable(config, method)
    trainer = lightning_trainer(config, directory, [])
    with contextlib.ExitStack() as stack:
        earlier = agreed(trainer, lambda: _begun(config, comparison.label, directory, stack))
        data = data_module(config)
        data.download()
        data.setup("test")
        found = _drawn_until(config, directory, comparison, rule, data, trainer)
        if not trainer.is_global_zero:
            return
        with tracker(config).run(config, directory) as record:
            size = len(data.ids(config["split"]))
            summary = finish_comparison(
                config,
                directory,
                comparison,
                found.made,
                found.conditions,
                found.drawn,
                size,
                earlier,
            )
            record_comparison(record, summary, directory)


def is_done(config: Mapping[str, Any], directory: Path) -> bool:
    """Never known beforehand: the rule may ask for more images than were drawn."""
    return False


@dataclass(frozen=True)
class _State:
    """How far a comparison has come: the decisions and their conditions once all pairs stopped."""

    drawn: int
    made: Sequence[Decision] = ()
    conditions: Sequence[Mapping[str, str]] = ()


def _begun(
    config: Mapping[str, Any], label: str, directory: Path, stack: contextlib.ExitStack
) -> list[dict[str, Any]]:
    """Hold and prepare the directory; the verdicts that were given here before."""
    stack.enter_context(held(directory))
    earlier = [] if config["overwrite"] else given_verdicts(directory)
    if is_finished(directory) and not config["overwrite"]:
        # Its verdict stands until there is another one.
        stack.enter_context(refusable(directory))
        say_running(directory, [label])
    else:
        begin(directory, config, overwrite=config["overwrite"], earlier=earlier)
    return earlier


def _drawn_until(
    config: Mapping[str, Any],
    directory: Path,
    comparison: Comparison,
    rule: Rule,
    data: ImageData,
    trainer: pl.Trainer,
) -> _State:
    """The state in which every pair has stopped; the first process keeps the rows and decides."""
    order = permutation(len(data.ids(config["split"])), int(config["seed"]))
    contexts: dict[str, Context] = {}
    device = trainer.strategy.root_device
    size = block_size(config["block_size"], data.input_shape, device)
    first = trainer.is_global_zero
    images = data.split(config["split"])
    scores = _earlier(directory, comparison, images, order) if first else pd.DataFrame()
    said = 0  # a line at each doubling
    while True:
        state = agreed(
            trainer, functools.partial(_state, config, comparison, rule, scores, len(order), said)
        )
        if state.made:
            return state
        said = max(said, 2 * state.drawn) if state.drawn >= said else said
        begins = state.drawn + trainer.global_rank * size
        places, new = order[begins : begins + size], pd.DataFrame()
        if len(places):
            batch = _batch(data, config["split"], places, device)
            contexts = contexts or _contexts(config, comparison, data, batch)
            new = _measured(comparison, contexts, batch, begins)
        parts = gathered(trainer, new)
        if first:
            scores = pd.concat([one for one in (scores, *parts) if len(one)], ignore_index=True)
            scores.attrs[_PIXELS] = images.content(order[: scores[DRAWN].nunique()])
            with atomic_path(rows_path(directory, comparison.label)) as path:
                scores.to_parquet(path, index=False)


def _state(
    config: Mapping[str, Any],
    comparison: Comparison,
    rule: Rule,
    scores: pd.DataFrame,
    population: int,
    said: int,
) -> _State:
    """Decisions if every pair has stopped by what was drawn; else a line on how it stands."""
    if scores.empty:
        return _State(0)
    drawn = int(scores[DRAWN].max()) + 1
    unscored = drawn - _scored(comparison, scores)
    if unscored == drawn:
        if drawn < population:
            return _State(drawn)
        raise UserError(
            f"Expected `evaluator` to score some of the {population:,} images of the split, but "
            f"{comparison.label} leaves all of them out"
        )
    differences, conditions, lower = paired_differences(comparison, scores, config["condition"])
    halts = stops(differences, population, rule, span=comparison.span)
    if all(halt.stopped for halt in halts):
        if unscored:
            log.warning(
                "%s leaves %d of %d images out; they count as no difference",
                comparison.label,
                unscored,
                drawn,
            )
        made = decisions(differences, population, rule, span=comparison.span, lower_is_better=lower)
        return _State(drawn, made, conditions)
    if drawn >= said:
        _say(comparison, halts, differences, population)
    return _State(drawn)


def _scored(comparison: Comparison, scores: pd.DataFrame) -> int:
    """How many of the images drawn have a score of any map."""
    score = comparison.evaluator.scores[0].name
    return int(scores.loc[scores[score].notna(), DRAWN].nunique()) if score in scores else 0


def _contexts(
    config: Mapping[str, Any], comparison: Comparison, data: ImageData, batch: Batch
) -> dict[str, Context]:
    classifier = configured_classifier(config)
    trained = tuple(classifier.facts["classes"])
    if trained != data.class_names:
        raise UserError(
            f"Expected `data` to have the {len(trained)} classes that the checkpoint was trained "
            f"on, but got {len(data.class_names)}"
        )
    require_unseen(classifier, data, config["split"])
    network = classifier.network.to(batch.image.device)
    model = prepared(built(config["engine"], "engine"), network, batch.image)
    home = config["classifier"]["directory"]
    training = None if home is None else Path(home)
    found = {
        key: Context(model, method, data, config["split"], int(config["seed"]), training)
        for key, method in comparison.methods.items()
    }
    for context in found.values():
        comparison.evaluator.check(context, comparison.label)
    return found


def _batch(data: ImageData, split: str, places: Sequence[int], device: torch.device) -> Batch:
    batch: Batch = data.split(split).__getitems__(list(places))  # type: ignore[arg-type]
    return batch._replace(
        image=channels_last_pixels(batch.image.to(device)),
        label=batch.label.to(device),
        index=batch.index.to(device),
    )


def _measured(
    comparison: Comparison, contexts: Mapping[str, Context], batch: Batch, drawn: int
) -> pd.DataFrame:
    """A row per image and map with its scores, and when the image was drawn."""
    evaluator, frames = comparison.evaluator, []
    names = conditions_of(evaluator)
    keys = ["sample_id", "view", *names]
    for key, context in contexts.items():
        batch_maps = block_maps(context, batch)
        require_finite(batch_maps.finite, batch.ids)
        found = found_maps(batch_maps)
        rows = block_rows(evaluator, comparison.label, context, batch, found)
        # Each image's scores come from its own rows, so a block gives what a whole run would.
        scores = evaluator.image_scores(rows)
        scores = scores.astype(dict.fromkeys(keys, str))
        if set(keys) <= set(rows.columns):
            # What was asked without a score coming of it stays: conditions are known by it.
            asked = rows[keys].astype(str).drop_duplicates()
            scores = asked.merge(scores, how="left", on=keys)
        for name, (home, view) in comparison.maps.items():
            if home == key:
                frames.append(scores[scores["view"] == view].assign(map=name))
    joined = pd.concat(frames, ignore_index=True).astype({"method": str, "view": str})
    # A row for an image without scores, too: it was drawn.
    left_out = sorted(set(batch.ids) - set(joined["sample_id"]))
    joined = pd.concat([joined, pd.DataFrame({"sample_id": left_out})], ignore_index=True)
    when = {sample: drawn + at for at, sample in enumerate(batch.ids)}
    joined[DRAWN] = joined["sample_id"].map(when)
    return joined.sort_values(DRAWN, kind="stable", ignore_index=True)


def _earlier(
    directory: Path, comparison: Comparison, images: Split, order: Sequence[int]
) -> pd.DataFrame:
    """What earlier runs drew, if it is whole and of the images that are to be drawn first."""
    path = rows_path(directory, comparison.label)
    if not is_readable(path):
        return pd.DataFrame()
    scores = pd.read_parquet(path)
    if scores.empty:
        return scores
    known = scores.groupby(DRAWN)["sample_id"].first()
    first = order[: len(known)]
    pixels = images.content(first)
    if (
        known.tolist() != [images.ids[place] for place in first]
        or scores.attrs.get(_PIXELS, pixels) != pixels
    ):
        log.warning("starting over: the images of the split are not those of %s", path)
        return pd.DataFrame()
    log.info("resuming: %d of %d images already drawn", len(known), len(order))
    return scores


def _say(
    comparison: Comparison,
    halts: Sequence[Stop],
    differences: Sequence[NDArray[np.float64]],
    population: int,
) -> None:
    for pair, halt, values in zip(comparison.pairs, halts, differences, strict=True):
        if not halt.stopped:
            log.info(
                "%s against %s: %s of %s images, mean difference %+.4f, not decided",
                *pair,
                f"{len(values):,}",
                f"{population:,}",
                values.mean(),
            )
