"""The comparisons: outputs are checked to agree, then the sides are timed in turns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ours, peers, plain
from benchmarks.cases import Case
from benchmarks.timing import medians
from saliency_lab.engine.engine import Engine, PreparedModel
from saliency_lab.engine.frozen import frozen
from saliency_lab.metrics.curves import _Plan
from saliency_lab.metrics.deletion import PAPER_FRACTIONS


class Row(NamedTuple):
    """One line of the table."""

    case: str
    comparison: str
    value: float
    unit: str
    target: str
    note: str


def versus_plain(case: Case) -> list[Row]:
    """Maps, curves and both, against the straightforward script, in fp32 and screened."""
    model, images = case.model, case.images
    rows, targets = [], {"off": "≥ 5", "int8": "≥ 10", "bf16": "≥ 10"}
    with frozen(model):
        expected = plain.all_maps(_wanting(model), images)
        decisions = plain.all_curves(model, images, expected)
    sides = {
        "plain maps": lambda: plain.all_maps(_wanting(model), images),
        "plain curves": lambda: plain.all_curves(model, images, expected),
    }
    notes = {}
    for screen in ("off", "int8", "bf16"):
        # A screen is measured as on a long run: calibrated before the clock starts.
        prepared = Engine(screen=screen, calibration=case.calibration).prepare(model, images)
        found, intact = ours.all_maps(prepared, images)
        if screen == "off":
            _require_same_maps(expected, found)
            sides["maps"] = lambda run=prepared: ours.all_maps(run, images)
        while _calibrating(prepared, case.calibration):
            ours.all_curves(prepared, images, found, intact)
        agreement = (ours.all_curves(prepared, images, found, intact) == decisions).float().mean()
        notes[screen] = f"decisions agree {100 * float(agreement):.2f} %"
        if screen != "off":
            report = prepared.report().get("screen")
            notes[screen] += f", {_screen_note(report)}"
        elif agreement < 0.995:
            raise RuntimeError(f"fast and plain decisions agree on {agreement:.4f} only")
        sides[screen] = lambda run=prepared, maps=found, logits=intact: ours.all_curves(
            run, images, maps, logits
        )
    taken = medians(sides, case.repeats, warm_up=False)
    whole = taken["plain maps"] + taken["plain curves"]
    rows.append(_ratio(case, "maps, times the plain script", taken, "plain maps", "maps", "≥ 10"))
    for screen, target in targets.items():
        name = "fp32" if screen == "off" else f"{screen} screen"
        ratio = taken["plain curves"] / taken[screen]
        rows.append(Row(case.name, f"curves, times the plain script, {name}", ratio, "x", "", ""))
        ratio = whole / (taken["maps"] + taken[screen])
        label = f"maps + curves, times the plain script, {name}"
        rows.append(Row(case.name, label, ratio, "x", target, notes[screen]))
    return rows


def versus_captum(case: Case) -> list[Row]:
    """Maps and curves against Saliency per class and a masking loop."""
    model, images = case.model, case.images
    prepared = Engine().prepare(model, images)
    expected = peers.captum_maps(model, images)
    found, _ = ours.all_maps(prepared, images)
    _require_same_maps(expected, found)

    def captum() -> None:
        peers.captum_curves(model, images, peers.captum_maps(model, images))

    def fast() -> None:
        ours.all_curves(prepared, images, *ours.all_maps(prepared, images))

    taken = medians({"captum": captum, "ours": fast}, case.repeats, warm_up=False)
    label = "maps + curves, times Captum + masking loop"
    return [_ratio(case, label, taken, "captum", "ours", "≥ 4")]


def versus_quantus(case: Case) -> list[Row]:
    """One black-deletion curve against PixelFlipping with the same steps."""
    model, images = case.model, case.images[:, :, 1:-1, 1:-1].contiguous()
    prepared = Engine().prepare(model, images)
    found, intact = ours.all_maps(prepared, images)
    targets = intact.argmax(1)
    # Ties are cut by index here and in no fixed order there, so the map is made free of them.
    rank = found["original"].flatten(1).argsort(1).argsort(1).float()
    saliency = (rank + 1).view_as(found["original"])
    theirs = peers.quantus_curve(model, images, saliency, targets)
    mine = peers.our_curve(prepared.scores, images, saliency, targets, prepared.scores_batch)
    difference = float((theirs - mine.cpu()).abs().max())
    if difference > 1e-3:
        raise RuntimeError(f"Quantus' curve differs by {difference:.1e}")
    taken = medians(
        {
            "quantus": lambda: peers.quantus_curve(model, images, saliency, targets),
            "ours": lambda: peers.our_curve(
                prepared.scores, images, saliency, targets, prepared.scores_batch
            ),
        },
        case.repeats,
        warm_up=False,
    )
    label = f"one curve of {peers.STEPS} steps, times Quantus PixelFlipping"
    return [_ratio(case, label, taken, "quantus", "ours", "≥ 5")]


def limits(case: Case, rate: float) -> list[Row]:
    """Both stages against nothing but the forwards and backwards that they consist of."""
    images = case.images
    prepared = Engine().prepare(case.model, images)
    found, intact = ours.all_maps(prepared, images)
    plan = _Plan(images, ours.paper_jobs(images, found), len(PAPER_FRACTIONS))
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
        max(5, case.repeats),
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


def _calibrating(prepared: PreparedModel, images: int) -> bool:
    screen = prepared.report().get("screen")
    return isinstance(screen, dict) and screen["active"] and screen["compared"] < images


def _screen_note(report: object) -> str:
    if not isinstance(report, dict):
        return "no screen on this machine"
    if not report["active"]:
        return "turned itself off"
    return f"{100 * report['repeated']:.0f} % repeated"


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
