"""`python -m benchmarks.sources --data DIR`: the sources of many passes, beside Captum's.

Two tables. Speed: ms per image of this program in float32 and in bfloat16
(`engine.precision=bf16`) and of the peer with as many samples, in turns. Error, on networks
trained on such images: how far a map is from one with twice the samples drawn anew, from one with
as many drawn anew, and how far the map in bfloat16 is from that in float32 with the same samples.
Where a source draws nothing and both define the same map (integrated gradients, occlusion), the
sides are checked to be equal to 1e-4 before anything is timed; the others can only be near one
another, as their samples are random.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.cases import Case, cases
from benchmarks.options import Options
from benchmarks.source_sides import SOURCES, SourceCase
from benchmarks.timing import choose_clock, medians
from saliency_lab.frozen import intact_logits
from saliency_lab.inference.engine import Engine

EQUAL = 1e-4
# Pixels along a side from which on one image and one repeat are enough.
_LARGE = 100


class Speed(NamedTuple):
    """ms per image of each side."""

    case: str
    source: str
    samples: int
    fp32: float
    bf16: float
    peer: float
    peer_name: str


class Error(NamedTuple):
    """Mean relative L2 distance of maps, and mean rank correlation with twice the samples."""

    case: str
    source: str
    samples: int
    doubled: float
    anew: float
    bf16: float
    rank: float
    peer: float


def main() -> None:
    """Measure both tables, print them, write them as JSON."""
    settings = _settings()
    torch.set_num_threads(settings.threads)
    choose_clock(settings.clock)
    chosen = [one for one in SOURCES if settings.source in (None, one.name)]
    speeds, errors = [], []
    place = torch.device("cpu")
    for case in cases(Path(settings.outputs), Path(settings.data), place, settings.only):
        large = case.images.shape[-1] > _LARGE
        few = settings.images or (1 if large else 8)
        images = case.images[:: max(1, len(case.images) // few)][:few].contiguous()
        targets = intact_logits(case.model, images).argmax(1)
        sides = _Sides(case, images, targets)
        for source in chosen:
            speeds.append(sides.speed(source, settings.repeats or (1 if large else 5)))
            print(speed_line(speeds[-1]), flush=True)
            # At 224 the networks at hand may be of other images; speed does not mind.
            if source.count and not large:
                errors.append(sides.error(source))
                print(error_line(errors[-1]), flush=True)
    path = Path(settings.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = {
        "speed": [speed._asdict() for speed in speeds],
        "error": [error._asdict() for error in errors],
    }
    path.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


class _Sides:
    """One case's images through each side."""

    def __init__(self, case: Case, images: Tensor, targets: Tensor) -> None:
        self._case, self._images, self._targets = case, images, targets
        self._fp32 = Engine().prepare(case.model, images)
        self._bf16 = Engine(precision="bf16").prepare(case.model, images)

    def speed(self, source: SourceCase, repeats: int) -> Speed:
        """The sides in turns, medians, after a check where both define the same map."""
        model, images, targets, samples = (
            self._case.model,
            self._images,
            self._targets,
            source.samples,
        )
        if source.equal:
            ours = source.ours(self._fp32, images, targets, samples)
            _require_equal(source.name, ours, source.theirs(model, images, targets, samples))
        taken = medians(
            {
                "fp32": lambda: source.ours(self._fp32, images, targets, samples),
                "bf16": lambda: source.ours(self._bf16, images, targets, samples),
                "peer": lambda: source.theirs(model, images, targets, samples),
            },
            repeats,
            warm_up=not source.equal and repeats > 1,
        )
        each = {side: 1e3 * seconds / len(images) for side, seconds in taken.items()}
        return Speed(self._case.name, source.name, samples, peer_name=source.peer_name, **each)

    def error(self, source: SourceCase) -> Error:
        """Distances of maps with these samples, from twice as many and from each other."""
        model, images, targets, samples = (
            self._case.model,
            self._images,
            self._targets,
            source.samples,
        )
        one = source.ours(self._fp32, images, targets, samples)
        other = source.ours(self._fp32, images, targets, samples, seed=1)
        doubled = source.ours(self._fp32, images, targets, 2 * samples, seed=2)
        low = source.ours(self._bf16, images, targets, samples)
        torch.manual_seed(0)
        theirs = source.theirs(model, images, targets, samples)
        theirs_doubled = source.theirs(model, images, targets, 2 * samples)
        return Error(
            self._case.name,
            source.name,
            samples,
            doubled=distance(one, doubled),
            anew=distance(one, other),
            bf16=distance(low, one),
            rank=rank_correlation(one, doubled),
            peer=distance(theirs, theirs_doubled),
        )


def distance(found: Tensor, reference: Tensor) -> float:
    """Mean over images of |found − reference| / |reference|, L2 norms of maps (B, H, W)."""
    apart = (found - reference).flatten(1).norm(dim=1)
    return float((apart / reference.flatten(1).norm(dim=1)).mean())


def rank_correlation(found: Tensor, reference: Tensor) -> float:
    """Mean over images of Spearman's ρ between two maps (B, H, W)."""
    pairs = zip(found.flatten(1).numpy(), reference.flatten(1).numpy(), strict=True)
    return float(torch.tensor([spearmanr(one, two).statistic for one, two in pairs]).mean())


def _require_equal(name: str, ours: Tensor, theirs: Tensor) -> None:
    apart = distance(ours, theirs)
    if apart > EQUAL:
        raise RuntimeError(f"maps of {name} differ by {apart:.1e} from the peer's")


def speed_line(row: Speed) -> str:
    """One line of the table of speed, as Markdown."""
    return (
        f"| {row.case} | {row.source} | {row.samples} | {row.fp32:.0f} | {row.bf16:.0f} | "
        f"{row.peer:.0f} ({row.peer_name}) | {row.peer / row.fp32:.1f} | "
        f"{row.peer / row.bf16:.1f} |"
    )


def error_line(row: Error) -> str:
    """One line of the table of errors, as Markdown."""
    return (
        f"| {row.case} | {row.source} | {row.samples} | {row.doubled:.3f} | {row.anew:.3f} | "
        f"{row.bf16:.3f} | {row.rank:.3f} | {row.peer:.3f} |"
    )


def _settings() -> argparse.Namespace:
    options = Options(
        __doc__, "data", "outputs", "only", "json", "threads", "clock", "images",
        json="outputs/sources.json",
    )  # fmt: skip
    options.add_argument("--source", choices=[one.name for one in SOURCES], help="one source alone")
    options.add_argument("--repeats", type=int, help="of each side; 5, and 1 at 224x224")
    return options.chosen()


if __name__ == "__main__":
    main()
