"""Which of two maps is better? Images are drawn until it is decided: the task `compare`."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from saliency_lab.attribution.maps import require_finite
from saliency_lab.config.binding import built
from saliency_lab.data.batch import Batch, channels_last_pixels
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.base import Evaluator, measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.loop import block_size, prepared
from saliency_lab.evaluation.rows.aggregation import conditions_of
from saliency_lab.evaluation.rows.decisions import Decision, Rule, decisions, permutation
from saliency_lab.evaluation.rows.format import is_readable, rows_path
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.runs.directory import begin, finish, held
from saliency_lab.runs.files import atomic_path
from saliency_lab.tasks.components import checked
from saliency_lab.tasks.evaluate import configured_evaluators, configured_method
from saliency_lab.training.components import data_module, lightning_trainer

log = logging.getLogger(__name__)

_DRAWN = "drawn"
_SPLITS = ("test", "train")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared by what.

    Attributes:
        pairs: names of the maps, as the user gave them.
        maps: name to (label of its method, view).
        methods: label to the method with all views of it that are needed.
        label: of the evaluator's files.
        evaluator: whose main score decides.
    """

    pairs: tuple[tuple[str, str], ...]
    maps: Mapping[str, tuple[str, str]]
    methods: Mapping[str, Method]
    label: str
    evaluator: Evaluator


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Draw images in one seeded order and measure both maps until the rule says stop.

    What was drawn by an earlier run, killed or finished, counts: a smaller `tolerance` or a larger
    `least` only draws what is still missing. One process draws, so devices decide nothing.

    Raises:
        UserError: unknown maps, a score without direction or range, no trained classifier.
    """
    checked(config)
    if config["split"] not in _SPLITS:
        raise unknown_choice("split", config["split"], _SPLITS)
    rule = Rule(
        **{name: config[name] for name in ("alpha", "tolerance", "least", "kind", "correction")}
    )
    comparison = compared(config)
    with held(directory):
        begin(directory, config, overwrite=config["overwrite"])
        data = data_module(config)
        data.download()
        data.setup("test")
        scores = _earlier(directory, comparison, len(data.ids(config["split"])))
        found = _drawn_until(config, directory, comparison, rule, data, scores)
        _finish(config, directory, comparison, found, len(data.ids(config["split"])))


def compared(config: Mapping[str, Any]) -> Comparison:
    """The maps, pairs and the evaluator of a configuration.

    Raises:
        UserError: a name that is no single map, lists that do not match, several evaluators.
    """
    pairs = paired_names(config["a"], config["b"])
    evaluators = configured_evaluators(config)
    if len(evaluators) != 1:
        raise UserError(
            f"Expected `evaluator` to be the one whose score decides, but got {len(evaluators)}"
        )
    ((label, evaluator),) = evaluators.items()
    maps: dict[str, tuple[str, str]] = {}
    methods: dict[str, Method] = {}
    for name, parts in config["methods"].items():
        method = configured_method(parts)
        if len(method.views) != 1:
            raise UserError(
                f"Expected `a` and `b` to name one map each, but {name} has the views "
                f"{', '.join(method.views)}; choose one, for example {name}/{method.views[0]}"
            )
        alike = {**parts, "view": {**parts["view"], "names": None}}
        key = json.dumps(alike, sort_keys=True, default=str)
        known = methods.get(key)
        views = (*(known.views if known else ()), *method.views)
        methods[key] = dataclasses.replace(method, views=tuple(dict.fromkeys(views)))
        maps[name] = key, method.views[0]
    return Comparison(pairs, maps, methods, label, evaluator)


def paired_names(a: str | Sequence[str], b: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of names; one name stands against each of several.

    Raises:
        UserError: lists of different lengths, or a map against itself.
    """
    first = [a] if isinstance(a, str) else list(a)
    second = [b] if isinstance(b, str) else list(b)
    length = max(len(first), len(second))
    first = first * length if len(first) == 1 else first
    second = second * length if len(second) == 1 else second
    if len(first) != len(second) or not first:
        raise UserError(
            f"Expected `a` and `b` to be one name each or lists of one length, but got {a} and {b}"
        )
    pairs = tuple(zip(first, second, strict=True))
    for one, other in pairs:
        if one == other:
            raise UserError(f"Expected `a` and `b` to be two maps, but got {one} twice")
    return pairs


def chosen_condition(
    scores: pd.DataFrame, conditions: Sequence[str], wanted: Mapping[str, Any], pair: Sequence[Any]
) -> dict[str, str]:
    """The one condition under which both maps of a pair have scores, among those wanted.

    Args:
        scores: rows of images with a column `map` and the conditions as text.
        pair: the two values of `map`.

    Raises:
        UserError: there is none, or more than one; or a wanted key is no condition.
    """
    for key in wanted:
        if key not in conditions:
            raise unknown_choice("condition", key, conditions)
    known = [
        {tuple(row) for row in scores.loc[scores["map"] == one, list(conditions)].to_numpy()}
        for one in pair
    ]
    common = sorted(set.intersection(*known))
    found = [dict(zip(conditions, values, strict=True)) for values in common]
    fitting = [c for c in found if all(c[key] == str(value) for key, value in wanted.items())]
    if len(fitting) != 1:
        texts = [", ".join(f"{key}={value}" for key, value in c.items()) for c in found]
        raise UserError(
            "Expected `condition` to name one condition under which both maps are measured, "
            f"but {dict(wanted)} leaves {len(fitting)} of: {'; '.join(texts) or 'none'}"
        )
    return fitting[0]


def _drawn_until(
    config: Mapping[str, Any],
    directory: Path,
    comparison: Comparison,
    rule: Rule,
    data: ImageData,
    scores: pd.DataFrame,
) -> tuple[list[Decision], pd.DataFrame, list[dict[str, str]]]:
    """Decisions once every pair has stopped, all scores drawn for them, and their conditions."""
    order = permutation(len(data.ids(config["split"])), int(config["seed"]))
    contexts: dict[str, Context] = {}
    trainer = lightning_trainer(config, directory, [])
    device = trainer.strategy.root_device
    size = block_size(config["block_size"], data.input_shape, device)
    while True:
        drawn = 0 if scores.empty else int(scores[_DRAWN].max()) + 1
        if drawn and (drawn >= rule.least or drawn == len(order)):
            found, conditions = _decided(config, comparison, rule, scores, len(order))
            _say(comparison, found, drawn, len(order))
            if all(decision.stopped for decision in found):
                return found, scores, conditions
        places = order[drawn : drawn + size]
        batch = _batch(data, config["split"], places, device)
        if not contexts:
            contexts = _contexts(config, comparison, data, batch)
        new = _measured(comparison, contexts, batch, drawn)
        scores = new if scores.empty else pd.concat([scores, new], ignore_index=True)
        with atomic_path(rows_path(directory, comparison.label)) as path:
            scores.to_parquet(path, index=False)


def _contexts(
    config: Mapping[str, Any], comparison: Comparison, data: ImageData, batch: Batch
) -> dict[str, Context]:
    classifier = load_classifier(Path(config["classifier"]["path"]))
    trained = tuple(classifier.facts["classes"])
    if trained != data.class_names:
        raise UserError(
            f"Expected `data` to have the {len(trained)} classes that the checkpoint was trained "
            f"on, but got {len(data.class_names)}"
        )
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
    for key, context in contexts.items():
        batch_maps = context.maps_of(batch.image, batch.ids)
        require_finite(batch_maps.finite, batch.ids)
        logits = batch_maps.logits
        logits = context.model.logits(batch.image) if logits is None else logits
        found = found_maps(batch_maps, logits)
        measured = evaluator.measure(context, batch, found)
        rows = measured_rows(evaluator, batch, context.method.name, measured)
        # Each image's scores come from its own rows, so a block gives what a whole run would.
        scores = evaluator.image_scores(rows)
        scores = scores.astype(dict.fromkeys(conditions_of(evaluator), str))
        for name, (home, view) in comparison.maps.items():
            if home == key:
                frames.append(scores[scores["view"] == view].assign(map=name))
    joined = pd.concat(frames, ignore_index=True).astype({"method": str, "view": str})
    when = {sample: drawn + at for at, sample in enumerate(batch.ids)}
    joined[_DRAWN] = joined["sample_id"].map(when)
    return joined.sort_values(_DRAWN, kind="stable", ignore_index=True)


def _decided(
    config: Mapping[str, Any],
    comparison: Comparison,
    rule: Rule,
    scores: pd.DataFrame,
    population: int,
) -> tuple[list[Decision], list[dict[str, str]]]:
    evaluator, score = comparison.evaluator, comparison.evaluator.scores[0]
    names = conditions_of(evaluator)
    conditions, differences = [], []
    for pair in comparison.pairs:
        condition = chosen_condition(scores, names, config["condition"], pair)
        conditions.append(condition)
        sides = [_values(scores, name, condition, score.name) for name in pair]
        differences.append(sides[0] - sides[1])
    ways = {evaluator.better(score.name, condition) for condition in conditions}
    if len(ways) != 1 or None in ways:
        raise UserError(
            f"Expected `evaluator` to be one whose score has a better side, but {score.name} only "
            "describes a map"
        )
    if score.low is None or score.high is None:
        raise UserError(
            f"Expected `evaluator` to be one whose score has a known range, but {score.name} has "
            "none, and bounds that hold at any time need one"
        )
    found = decisions(
        differences,
        population,
        rule,
        span=score.high - score.low,
        lower_is_better=ways == {"lower"},
    )
    return found, conditions


def _values(
    scores: pd.DataFrame, name: str, condition: Mapping[str, str], score: str
) -> NDArray[np.float64]:
    rows = scores[scores["map"] == name]
    for key, value in condition.items():
        rows = rows[rows[key] == value]
    return rows.sort_values(_DRAWN)[score].to_numpy(dtype=np.float64)


def _earlier(directory: Path, comparison: Comparison, population: int) -> pd.DataFrame:
    """What earlier runs drew, if it is whole and of these maps."""
    path = rows_path(directory, comparison.label)
    if not is_readable(path):
        return pd.DataFrame()
    scores = pd.read_parquet(path)
    drawn = int(scores[_DRAWN].max()) + 1 if len(scores) else 0
    if drawn:
        log.info("resuming: %d of %d images already drawn", drawn, population)
    return scores


def _say(comparison: Comparison, found: Sequence[Decision], drawn: int, population: int) -> None:
    for pair, decision in zip(comparison.pairs, found, strict=True):
        if not decision.stopped:
            log.info(
                "%s against %s: %d of %d images, difference in [%.4f, %.4f]",
                *pair,
                drawn,
                population,
                decision.low,
                decision.high,
            )


def _finish(
    config: Mapping[str, Any],
    directory: Path,
    comparison: Comparison,
    found: tuple[list[Decision], pd.DataFrame, list[dict[str, str]]],
    population: int,
) -> None:
    made, scores, conditions = found
    evaluator, score = comparison.evaluator, comparison.evaluator.scores[0]
    entries = [
        {
            "a": pair[0],
            "b": pair[1],
            "condition": condition,
            **{key: value for key, value in dataclasses.asdict(decision).items()},
        }
        for pair, condition, decision in zip(comparison.pairs, conditions, made, strict=True)
    ]
    summary = {
        "task": "compare",
        "data": {"name": config["data"]["name"], "split": config["split"], "images": population},
        "model": {"name": config["model"]["name"]},
        "seed": config["seed"],
        "checkpoint": {name: config["classifier"][name] for name in ("path", "sha256")},
        "evaluator": comparison.label,
        "score": {"name": score.name, "better": evaluator.better(score.name, conditions[0])},
        "drawn": int(scores[_DRAWN].max()) + 1,
        "kind": config["kind"],
        "correction": config["correction"] if len(entries) > 1 else None,
        "tolerance": config["tolerance"],
        "remark": (
            "`difference` is the mean over the images drawn until the stop and biased by "
            "stopping there; `low` and `high` hold at any stop. They are about the images of this "
            "split and this classifier, not about other trainings."
        ),
        "pairs": entries,
        **(entries[0] if len(entries) == 1 else {}),
    }
    finish(directory, summary)
    for entry in entries:
        print(verdict_text(entry, population, float(config["alpha"]), config["correction"]))
    print(f"wrote {directory}")


def verdict_text(entry: Mapping[str, Any], population: int, alpha: float, correction: str) -> str:
    """One sentence on a pair."""
    bounds = (
        f"difference {entry['difference']:+.4f}, in [{entry['low']:+.4f}, {entry['high']:+.4f}]"
    )
    if entry["verdict"] == "undecided":
        return (
            f"{entry['a']} against {entry['b']}: undecided after {entry['images']:,} of "
            f"{population:,} images ({bounds})"
        )
    winner, loser = ("a", "b") if entry["verdict"] == "a" else ("b", "a")
    error = "false verdicts" if correction == "e-bh" else "error"
    return (
        f"{entry[winner]} beats {entry[loser]} after {entry['images']:,} of {population:,} images "
        f"({error} ≤ {100 * alpha:g} % however often you look; {bounds})"
    )
