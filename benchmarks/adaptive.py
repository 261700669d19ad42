"""`python -m benchmarks.adaptive --data DIR`: samples drawn until an error is met.

For each source that draws, on networks trained on CIFAR-10: the samples per image that
`method=adaptive` or `adaptive_map` takes to meet an error, the error that it states, and the one
that it makes: the distance from a map of half the error with draws of its own, less what that map's
own error adds to it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import cases
from benchmarks.options import Options
from saliency_lab.attribution.core.estimate import Estimate
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.adaptive import adaptive, adaptive_map
from saliency_lab.attribution.methods.gradient_shap import gradient_shap
from saliency_lab.attribution.methods.kernel_shap import kernel_shap
from saliency_lab.attribution.methods.lime import lime
from saliency_lab.attribution.methods.rise import rise
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.frozen import intact_logits
from saliency_lab.inference.folding import folded_copy

FIELDS: dict[str, tuple[Callable[..., Any], int]] = {
    "SmoothGrad": (smoothgrad, 25),
    "GradientSHAP": (gradient_shap, 20),
    "GradientSHAP, stratified": (partial(gradient_shap, stratified=True), 20),
}
MAPS: dict[str, tuple[Callable[..., Any], int]] = {
    "RISE": (rise, 250),
    "KernelSHAP": (kernel_shap, 125),
    "LIME": (lime, 125),
}
# Rounds at most; half the error takes four times as many.
_MOST = 200


class Row(NamedTuple):
    """One source on one network, over images; errors are shares of a map's size."""

    case: str
    source: str
    asked: float
    mean_samples: float
    fewest: int
    most: int
    stated: float
    made: float


def main() -> None:
    """Measure, print a table, write it as JSON."""
    settings = _settings()
    torch.set_num_threads(1)
    rows = []
    print("| network | source | error | samples, mean (range) | stated | made |")
    print("|---|---|---|---|---|---|")
    place = torch.device("cpu")
    for case in cases(Path(settings.outputs), Path(settings.data), place, settings.only):
        images = case.images[:: len(case.images) // settings.images][: settings.images]
        model = folded_copy(case.model)
        for source in settings.sources or [*FIELDS, *MAPS]:
            rows.append(measured(case.name, model, images.contiguous(), source, settings.error))
            print(line(rows[-1]), flush=True)
    path = Path(settings.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n", encoding="utf-8")


def measured(case: str, model: nn.Module, images: Tensor, source: str, error: float) -> Row:
    """The samples that a source takes to meet an error, and whether it is met."""
    found, estimate = _drawn(model, images, source, error, _MOST, seed=0)
    reference, own = _drawn(model, images, source, error / 2, 4 * _MOST, seed=1)
    samples = {**FIELDS, **MAPS}[source][1]
    apart = (found - reference).square().sum(1) / found.square().sum(1)
    rounds = estimate.rounds.numpy()
    return Row(
        case,
        source,
        error,
        samples * float(rounds.mean()),
        samples * int(rounds.min()),
        samples * int(rounds.max()),
        float(estimate.error.square().mean().sqrt()),
        float((apart - own.error.square()).mean().clamp_min(0).sqrt()),
    )


def _drawn(
    model: nn.Module, images: Tensor, source: str, error: float, most: int, seed: int
) -> tuple[Tensor, Estimate]:
    """What the error is of, one row per image, and what is stated of it."""
    targets = intact_logits(model, images).argmax(1)
    base, samples = {**FIELDS, **MAPS}[source]
    settings: dict[str, Any] = {
        "base": partial(base, samples=samples),
        "error": error,
        "most": most,
    }
    streams = SampleGenerator(seed, range(len(images)))
    if source in FIELDS:
        field = adaptive(model, images, generator=streams, **settings)
        return field.of(targets).flatten(1).double(), field.estimate
    maps, estimate = adaptive_map(model, images, targets, generator=streams, **settings)
    flat = maps.flatten(1).double()
    return flat - flat.mean(1, keepdim=True), estimate


def line(row: Row) -> str:
    """One line of the table, as Markdown."""
    return (
        f"| {row.case} | {row.source} | {row.asked} | {row.mean_samples:.0f} ({row.fewest} to "
        f"{row.most}) | {row.stated:.3f} | {row.made:.3f} |"
    )


def _settings() -> argparse.Namespace:
    options = Options(
        __doc__,
        "data",
        "outputs",
        "only",
        "json",
        "images",
        json="outputs/adaptive.json",
        images=16,
    )  # fmt: skip
    options.add_argument("--error", type=float, default=0.2, help="to be met")
    options.add_argument("--sources", nargs="+", choices=[*FIELDS, *MAPS], help="these alone")
    return options.chosen()


if __name__ == "__main__":
    main()
