"""The comparisons: outputs are checked to agree, then the sides are timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ours, peers, plain
from benchmarks.cases import Case
from benchmarks.timing import medians
from saliency_lab.evaluation.deletion.masking import MaskingPlan
from saliency_lab.evaluation.deletion.removal import PAPER_FRACTIONS
from saliency_lab.frozen import frozen
from saliency_lab.inference.engine import Engine, PreparedModel
from saliency_lab.measurement import measure

_NAMES = {"off": "fp32", "int8": "int8 screen", "bf16": "bf16 screen"}
DRAWS = 4
"""Of the thirteen fractions of a curve, where the evaluator's `draws` is measured."""
SCREENS: tuple[Literal["off", "int8", "bf16"], ...] = ("off", "int8", "bf16")


class Row(NamedTuple):
    """One line of the table."""

    case: str
    comparison: str
    value: float
    unit: str
    target: str
    note: str


@dataclass(frozen=True)
class Run:
    """One way to run a case: made ready, calibrated as on a long run, with its maps and logits."""

    prepared: PreparedModel
    maps: dict[str, torch.Tensor]
    intact: torch.Tensor

    def curves(self, images: torch.Tensor, draws: int | None = None) -> torch.Tensor:
        """The six paper curves of the maps."""
        return ours.all_curves(self.prepared, images, self.maps, self.intact, draws)

    def both(self, images: torch.Tensor, draws: int | None = None) -> torch.Tensor:
        """Maps and their curves."""
        found, intact = ours.all_maps(self.prepared, images)
        return ours.all_curves(self.prepared, images, found, intact, draws)


def screened_runs(case: Case) -> dict[str, Run]:
    """A run without a screen and one with each."""
    runs: dict[str, Run] = {}
    for screen in SCREENS:
        engine = Engine(screen=screen, calibration=case.calibration)
        prepared = engine.prepare(case.model, case.images)
        runs[screen] = Run(prepared, *ours.all_maps(prepared, case.images))
        ours.calibrate(prepared, case.images, runs[screen].maps, runs[screen].intact)
    return runs


def versus_plain(case: Case, runs: Mapping[str, Run]) -> list[Row]:
    """Maps, curves and both, against the straightforward script, in fp32 and screened."""
    model, images = case.model, case.images
    rows, targets = [], {"off": "≥ 5", "int8": "≥ 10", "bf16": "≥ 10"}
    with frozen(model):
        expected = plain.all_maps(_wanting(model), images)
        decisions = plain.all_curves(model, images, expected)
    sides: dict[str, Callable[[], object]] = {
        "plain maps": lambda: plain.all_maps(_wanting(model), images),
        "plain curves": lambda: plain.all_curves(model, images, expected),
    }
    notes: dict[str, str] = {}
    _require_same_maps(expected, runs["off"].maps)
    sides["maps"] = lambda: ours.all_maps(runs["off"].prepared, images)
    for screen, run in runs.items():
        agreement = _agreement(run.curves(images), decisions)
        notes[screen] = _screen_note(run.prepared, agreement)
        if screen == "off" and agreement < 0.995:
            raise RuntimeError(f"fast and plain decisions agree on {agreement:.4f} only")
        sides[screen] = partial(run.curves, images)
        sides[f"{screen} drawn"] = partial(run.curves, images, DRAWS)
        notes[f"{screen} drawn"] = _drawn_note(run.curves(images, DRAWS), decisions, images)
    fast = runs["off"].prepared
    sides["notebook"] = lambda: measure(fast, images, plain.METHODS, "deletion", seed=0)
    taken = medians(sides, case.repeats, warm_up=False)
    whole = taken["plain maps"] + taken["plain curves"]
    label = "maps + curves, times the plain script, from a notebook"
    rows.append(Row(case.name, label, whole / taken["notebook"], "x", "≥ 4.5", "sl.measure"))
    rows.append(_ratio(case, "maps, times the plain script", taken, "plain maps", "maps", "≥ 10"))
    for screen, target in targets.items():
        name = _NAMES[screen]
        ratio = taken["plain curves"] / taken[screen]
        rows.append(Row(case.name, f"curves, times the plain script, {name}", ratio, "x", "", ""))
        ratio = whole / (taken["maps"] + taken[screen])
        label = f"maps + curves, times the plain script, {name}"
        rows.append(Row(case.name, label, ratio, "x", target, notes[screen]))
        drawn = f"{screen} drawn"
        ratio = whole / (taken["maps"] + taken[drawn])
        rows.append(Row(case.name, f"{label}, {DRAWS} draws", ratio, "x", "", notes[drawn]))
    return rows


def versus_captum(case: Case, runs: Mapping[str, Run]) -> list[Row]:
    """Maps and curves against Saliency per class and a masking loop, in fp32 and screened."""
    model, images = case.model, case.images
    expected = peers.captum_maps(model, images)
    decisions = peers.captum_curves(model, images, expected)

    def captum() -> None:
        peers.captum_curves(model, images, peers.captum_maps(model, images))

    sides: dict[str, Callable[[], object]] = {"captum": captum}
    notes: dict[str, str] = {}
    _require_same_maps(expected, runs["off"].maps)
    for screen in SCREENS:
        notes[screen] = _screen_note(
            runs[screen].prepared, _agreement(runs[screen].curves(images), decisions)
        )
        sides[screen] = partial(runs[screen].both, images)
        sides[f"{screen} drawn"] = partial(runs[screen].both, images, DRAWS)
    taken = medians(sides, case.repeats, warm_up=False)
    label = "maps + curves, times Captum + masking loop"
    rows = _screened_rows(case, label, taken, "captum", "≥ 4", notes)
    for screen in SCREENS:
        name = f"{label}, {_NAMES[screen]}, {DRAWS} draws"
        rows.append(_ratio(case, name, taken, "captum", f"{screen} drawn", ""))
    return rows


def versus_quantus(case: Case) -> list[Row]:
    """One black-deletion curve against PixelFlipping with the same steps, in fp32 and screened."""
    model, images = case.model, case.images[:, :, 1:-1, 1:-1].contiguous()
    plain_run = Engine().prepare(model, images)
    found, intact = ours.all_maps(plain_run, images)
    targets = intact.argmax(1)
    # Ties are cut by index here and in no fixed order there, so the map is made free of them.
    rank = found["original"].flatten(1).argsort(1).argsort(1).float()
    saliency = (rank + 1).view_as(found["original"])
    theirs = peers.quantus_curve(model, images, saliency, targets)
    sides: dict[str, Callable[[], object]] = {
        "quantus": lambda: peers.quantus_curve(model, images, saliency, targets)
    }
    notes: dict[str, str] = {}
    for screen in SCREENS:
        prepared = Engine(screen=screen, calibration=case.calibration).prepare(model, images)
        ours.calibrate(prepared, images, found, intact)
        sides[screen] = lambda run=prepared: peers.our_curve(
            run.scores, images, saliency, targets, run.scores_batch
        )
        mine = peers.our_curve(prepared.scores, images, saliency, targets, prepared.scores_batch)
        difference = (theirs - mine.cpu()).abs()
        if screen == "off" and float(difference.max()) > 1e-3:
            raise RuntimeError(f"Quantus' curve differs by {float(difference.max()):.1e}")
        notes[screen] = (
            f"probabilities differ by {float(difference.mean()):.0e} on average, "
            f"{float(difference.max()):.0e} at most"
        )
    taken = medians(sides, case.repeats, warm_up=False)
    label = f"one curve of {peers.STEPS} steps, times Quantus"
    return _screened_rows(case, label, taken, "quantus", "≥ 5", notes)


def limits(case: Case, rate: float) -> list[Row]:
    """Both stages against nothing but the forwards and backwards that they consist of."""
    images = case.images
    prepared = Engine().prepare(case.model, images)
    found, intact = ours.all_maps(prepared, images)
    plan = MaskingPlan(images, ours.paper_jobs(images, found), len(PAPER_FRACTIONS))
    masked = [part.clone() for _, _, part in plan.batches(prepared.scores_batch)]
    laid_out = [part.contiguous(memory_format=torch.channels_last) for part in masked]
    classes = intact.shape[1]
    rows = range(0, len(images), prepared.maps_batch)
    parts = [images[start : start + prepared.maps_batch] for start in rows]
    parts = [part.contiguous(memory_format=torch.channels_last) for part in parts]
    same = [laid_out[0][: len(part)] for part in parts]

    def bare_forwards() -> None:
        with torch.no_grad():
            for part in laid_out:
                prepared.model(part)

    def bare_backwards() -> None:
        for part in parts:
            leaf = part.clone().requires_grad_(True)
            logits = prepared.model(leaf)
            for label in range(classes):
                seed = torch.zeros_like(logits)
                seed[:, label] = 1
                torch.autograd.grad(logits, leaf, seed, retain_graph=True)

    def forward() -> None:
        with torch.no_grad():
            for part in same:
                prepared.model(part)

    taken = medians(
        {
            "bare forwards": bare_forwards,
            "curves": lambda: ours.all_curves(prepared, images, found, intact),
            "bare backwards": bare_backwards,
            "maps": lambda: ours.all_maps(prepared, images),
            "forward": forward,
            "original forward": lambda: _forwards(case, same),
        },
        case.repeats,
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        case.model(images[:1])
    reached = counter.get_total_flops() * len(images) / taken["forward"] / 1e9
    return [
        _ratio(
            case, "curve stage, times bare forwards", taken, "curves", "bare forwards", "≤ 1.10"
        ),
        _ratio(
            case, "map stage, times bare 1 + K passes", taken, "maps", "bare backwards", "≤ 1.05"
        ),
        _ratio(case, "map stage, in forwards of the copy", taken, "maps", "forward", "≤ 12"),
        _ratio(
            case, "forward of the model, times the copy's", taken, "original forward", "forward", ""
        ),
        Row(
            case.name,
            "copy's forward, share of the matrix-product rate",
            reached / rate,
            "",
            "",
            f"{reached:.0f} of {rate:.0f} GFLOP/s",
        ),
    ]


def product_rate(device: torch.device, size: int = 2048) -> float:
    """GFLOP/s of a large matrix product in float32."""
    left, right = torch.rand(2, size, size, device=device)
    seconds = medians({"product": lambda: left @ right}, 9)["product"]
    return 2 * size**3 / seconds / 1e9


def _forwards(case: Case, parts: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for part in parts:
            case.model(part.contiguous())


def _wanting(model: torch.nn.Module) -> torch.nn.Module:
    """The model as a training script leaves it: every parameter wants a gradient."""
    return model.requires_grad_(True)


def _agreement(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found == expected).float().mean())


def _drawn_note(found: torch.Tensor, decisions: torch.Tensor, images: torch.Tensor) -> str:
    steps = ours.drawn_steps(images, DRAWS).expand(len(decisions), -1, -1)
    agreement = _agreement(found, decisions.gather(2, steps))
    return f"decisions agree {100 * agreement:.2f} %"


def _screen_note(prepared: PreparedModel, agreement: float) -> str:
    note = f"decisions agree {100 * agreement:.2f} %"
    report = ours.screen_report(prepared)
    if not report:
        return note
    if not report["active"]:
        return f"{note}, turned itself off"
    return f"{note}, {100 * report['repeated']:.0f} % repeated"


def _screened_rows(
    case: Case,
    label: str,
    taken: dict[str, float],
    over: str,
    target: str,
    notes: dict[str, str],
) -> list[Row]:
    rows = []
    for screen, note in notes.items():
        row = _ratio(case, f"{label}, {_NAMES[screen]}", taken, over, screen, target)
        rows.append(row._replace(note=f"{row.note}; {note}"))
    return rows


def _require_same_maps(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    for method, plain_map in expected.items():
        difference = float((plain_map - found[method]).norm() / plain_map.norm())
        if difference > 0.02:
            raise RuntimeError(f"maps '{method}' differ by {difference:.1e}")


def _ratio(
    case: Case, label: str, taken: dict[str, float], over: str, under: str, target: str
) -> Row:
    note = f"{1e3 * taken[over]:.0f} ms / {1e3 * taken[under]:.0f} ms"
    return Row(case.name, label, taken[over] / taken[under], "x", target, note)
