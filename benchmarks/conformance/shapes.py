"""How concentrated maps are, and a combined score, by the peers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import saliency_lab as sl
from benchmarks.conformance.given import Given, Line, largest
from saliency_lab.evaluation.complexity.concentration import sparseness

# What Quantus adds to every value before it sorts.
_ADDED = 1e-7


def quantus_concentration(given: Given) -> list[Line]:
    import quantus

    asked = given.numpy()
    # It computes in the maps' own precision.
    asked["a_batch"] = asked["a_batch"].astype(np.float64)
    sparse, complexity = (
        metric(disable_warnings=True, normalise=False)(
            model=given.network, **{name: value.copy() for name, value in asked.items()}
        )
        for metric in (quantus.Sparseness, quantus.Complexity)
    )
    same = largest(sparse, sparseness(given.maps.double().abs() + _ADDED))
    found = given.scores("complexity", "sparseness"), given.scores("complexity", "entropy")
    return [
        _line("sparseness", "Quantus", found[0], sparse, same, "1e-7 is added to every value"),
        _line("entropy", "Quantus", found[1], complexity, None, ""),
    ]


def xplique_concentration(given: Given) -> list[Line]:
    from xplique.metrics import Complexity, Sparseness

    found = {"sparseness": Sparseness(), "entropy": Complexity()}
    return [
        _line(
            score, "xplique", given.scores("complexity", score),
            metric.detailed_evaluate(given.maps.numpy()), None, "",
        )
        for score, metric in found.items()
    ]  # fmt: skip


def grad_cam_combined(given: Given) -> list[Line]:
    """ARCC, whose text says geometric mean, from its own parts."""
    from pytorch_grad_cam.metrics.arcc import ARCC

    def scaled(maps: Tensor) -> Any:
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return ((maps - low) / (high - low)).numpy()

    def explained(input_tensor: Tensor, targets: Any) -> Any:
        found = sl.explain(
            given.network, input_tensor, ("original",), targets=given.targets, pixel_range=None
        )
        return scaled(found["original"])

    targets = [lambda logits, c=int(c): logits.softmax(-1)[c] for c in given.targets]
    metric = ARCC(explained)
    cams = scaled(given.maps)
    kept: list[Any] = []
    for name in ("complexity", "coherency", "road"):
        part = getattr(metric, name)
        setattr(metric, name, _remembered(part, kept))
    torch.manual_seed(0)  # ROAD's noise is drawn from the process's own generator
    theirs = metric(given.images, cams, targets, given.network)
    parts = np.stack([kept[1], 1 - kept[0], (2 * kept[2]).clip(0, 1)]).astype(np.float64) + 1e-8
    harmonic, geometric = stats.hmean(parts, axis=0), stats.gmean(parts, axis=0)
    cause = f"a geometric mean by its text, whose mean is {geometric.mean():.4f}; it is harmonic"
    plain = np.abs(given.maps.numpy()).mean((1, 2))
    unscaled = metric.complexity(given.maps.numpy())
    return [
        Line("ARCC", "grad-cam", None, float(np.mean(theirs)), None, largest(theirs, harmonic),
             cause),
        Line("entropy", "grad-cam", float(given.scores("complexity", "entropy").mean()),
             float(np.mean(unscaled)), None, largest(unscaled, plain),
             "its Complexity is the mean of the absolute map, which changes with the map's scale"),
    ]  # fmt: skip


def _remembered(part: Any, kept: list[Any]) -> Any:
    def called(*args: Any) -> Any:
        kept.append(part(*args))
        return kept[-1]

    return called


def _line(
    measure: str, peer: str, ours: Tensor, theirs: Any, repeated: float | None, cause: str
) -> Line:
    values = torch.as_tensor(np.asarray(theirs), dtype=torch.float64)
    mean = float(values.mean())
    return Line(measure, peer, float(ours.mean()), mean, largest(ours, values), repeated, cause)
