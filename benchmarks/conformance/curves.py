"""Deletion, insertion and ROAD by torchcam, xplique, Quantus and pytorch-grad-cam."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.conformance.given import PERCENTAGES, SHARES, STEPS, Given, Line, largest
from saliency_lab.imputation.linear import road

_QUANTUS = {"disable_warnings": True, "normalise": False}


class Shown:
    """Given maps in the place of a torchcam extractor."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def torchcam_areas(given: Given) -> list[Line]:
    """Areas under the probability with as many steps as this program was told to make."""
    from torchcam.metrics import DeletionInsertionMetric

    found: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for row in range(len(given.images)):
        one = slice(row, row + 1)
        metric = DeletionInsertionMetric(
            Shown(given.network, given.maps[one]),
            functools.partial(torch.softmax, dim=-1),
            steps=STEPS,
        )
        metric.update(given.images[one])
        for mode, values in found.items():
            values.append(metric.summary()[f"{mode}_auc"])
    return [_area(given, mode, "torchcam", values) for mode, values in found.items()]


def xplique_areas(given: Given) -> list[Line]:
    from xplique.metrics import Deletion, Insertion

    lines = []
    for mode, metric in (("deletion", Deletion), ("insertion", Insertion)):
        values = [
            metric(
                given.network,
                given.images[[row]].permute(0, 2, 3, 1).numpy(),
                one_hot(given)[[row]],
                steps=STEPS,
                operator=operator(given, lambda logits: logits.softmax(1)),
            ).evaluate(given.maps[[row]].numpy())
            for row in range(len(given.images))
        ]
        lines.append(_area(given, mode, "xplique", values))
    return lines


def quantus_flipping(given: Given) -> list[Line]:
    """Its curve where it has removed whole pixels, and its area."""
    import quantus

    channels, pixels = given.images.shape[1], given.maps[0].numel()
    settings = {"features_in_step": pixels // STEPS, "perturb_baseline": 0.0, **_QUANTUS}
    inputs = {"model": given.network, "softmax": True, "device": "cpu", **given.numpy()}
    theirs = np.asarray(quantus.PixelFlipping(**settings)(**inputs))
    ours = torch.stack(
        [
            given.rows("deletion", "probability", mode="deletion", fill="black", fraction=share)
            for share in SHARES[1:]
        ],
        1,
    )
    cause = "after every third step, which is when it has removed whole pixels"
    lines = [_line("deletion, curve of p", "Quantus", ours, theirs[:, channels - 1 :: channels],
                   None, cause)]  # fmt: skip
    metric = quantus.PixelFlipping(return_auc_per_sample=True, **settings)
    own = given.scores("deletion", "probability", mode="deletion", fill="black")
    try:
        areas = metric(**inputs)
    except AttributeError as error:
        cause = f"fails with NumPy {np.__version__}: {error}"
        lines.append(_line("deletion, area under p", "Quantus", own, None, None, cause))
        with _old_numpy():
            areas = metric(**inputs)
    steps = [given.probabilities(images) for _, images in value_removals(given, pixels // STEPS)]
    same = np.trapezoid(torch.stack(steps, 1).numpy(), axis=1)
    cause = "in steps, not shares; starts after the first step, without the intact image"
    lines.append(
        _line("deletion, area under p", "Quantus, mended", own, areas, largest(areas, same), cause)
    )
    return lines


def quantus_road(given: Given) -> list[Line]:
    """Agreement after imputation without noise; Quantus' own call, and one that runs."""
    import quantus

    pixels = given.maps[0].numel()
    counts = [int(pixels * share / 100) for share in PERCENTAGES]
    ours = _agreement(given, counts)
    asked = {"model": given.network, "device": "cpu", **given.numpy()}
    lines = []
    try:
        found = quantus.ROAD(percentages=list(PERCENTAGES), noise=0.0, **_QUANTUS)(**asked)
        cause = ""
    except IndexError as error:
        found, cause = None, f"fails on colour images, whose values it ranks as pixels: {error}"
    values = None if found is None else list(found.values())
    lines.append(_line("ROAD, agreement", "Quantus", ours, values, None, cause))
    channels = given.images.shape[1]
    least = asked["a_batch"].min() - 1
    others = [np.full_like(asked["a_batch"], least)] * (channels - 1)
    asked["a_batch"] = np.concatenate([asked["a_batch"], *others], 1)
    percentages = [share / channels for share in PERCENTAGES]
    found = quantus.ROAD(percentages=percentages, noise=0.0, **_QUANTUS)(**asked)
    cause = "map in the first channel, others below it, percentages divided by the channels"
    rounded = _agreement(given, [round(pixels * share / 100) for share in PERCENTAGES])
    same = largest(ours, list(found.values()))
    lines.append(
        _line("ROAD, agreement", "Quantus, mended", rounded, list(found.values()), same, cause)
    )
    return lines


def grad_cam_road(given: Given) -> list[Line]:
    """Drop of the probability at one share, and the gain over all, without noise."""
    from pytorch_grad_cam.metrics.road import ROADCombined, ROADMostRelevantFirst

    targets = [_probability_of(int(target)) for target in given.targets]
    cams, before = given.maps.numpy(), given.probabilities(given.images)
    metric = ROADMostRelevantFirst(percentile=90)
    metric.perturbation.imputer.noise = 0
    theirs = metric(given.images, cams, targets, given.network)
    ours = given.probabilities(_imputed(given, round(0.1 * given.maps[0].numel()))) - before
    masks = _from_percentile(given.maps, 90)
    same = given.probabilities(road(given.images, masks, noise=0)) - before
    cause = "np.percentile falls between two pixels and takes one more than the share"
    lines = [
        _line("ROAD 10 %, change of p", "grad-cam", ours, theirs, largest(theirs, same), cause)
    ]
    combined = ROADCombined(list(PERCENTAGES))
    for averager in (combined.morf_averager, combined.lerf_averager):
        averager.imputer = _without_noise(averager.imputer)
    theirs = combined(given.images, cams, targets, given.network)
    changes = []
    for percentile in PERCENTAGES:
        pair = [
            given.probabilities(road(given.images, _from_percentile(signed, percentile), noise=0))
            for signed in (1 - given.maps, given.maps)
        ]
        changes.append((pair[0] - pair[1]) / 2)
    same = torch.stack(changes).mean(0)
    gain = given.scores("relevance_gain", "gain", fill="road", segments="pixels")
    cause = "half the difference; a mean over shares, not an area; noise 0.01 in ours"
    lines.append(_line("gain under ROAD", "grad-cam", gain, theirs, largest(theirs, same), cause))
    return lines


def value_removals(given: Given, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Values (N, step) that go, and images without them and all before, in Quantus' order.

    It ranks the values of all channels, of which a pixel's have the same rank.
    """
    values = given.maps[:, None].expand_as(given.images).reshape(len(given.ids), -1)
    order = torch.from_numpy(np.argsort(-values.numpy(), axis=1))
    altered = given.images.flatten(1)
    for chosen in order.split(step, 1):
        altered = altered.scatter(1, chosen, 0.0)
        yield chosen, altered.view_as(given.images)


def one_hot(given: Given) -> Any:
    return np.eye(given.logits.shape[1], dtype=np.float32)[given.targets.numpy()]


def operator(given: Given, scored: Callable[[Tensor], Tensor]) -> Callable[[Any, Any, Any], Any]:
    """xplique's way to a score: of a model, images (n, H, W, C) and one-hot targets."""

    def scores(_: Any, inputs: Any, targets: Any) -> Any:
        images = torch.from_numpy(np.array(inputs, dtype=np.float32)).permute(0, 3, 1, 2)
        with torch.no_grad():
            return (scored(given.network(images)).numpy() * np.asarray(targets)).sum(-1)

    return scores


def _area(given: Given, mode: str, peer: str, values: list[float]) -> Line:
    ours = given.scores("deletion", "probability", mode=mode, fill="black")
    return Line(
        f"{mode}, area under p", peer, float(ours.mean()), float(np.mean(values)),
        largest(ours, values), None, "",
    )  # fmt: skip


def _line(
    measure: str, peer: str, ours: Tensor, theirs: Any, repeated: float | None, cause: str
) -> Line:
    if theirs is None:
        return Line(measure, peer, float(ours.mean()), None, None, repeated, cause)
    mean, apart = float(np.mean(theirs)), largest(ours, theirs)
    return Line(measure, peer, float(ours.mean()), mean, apart, repeated, cause)


@contextlib.contextmanager
def _old_numpy() -> Iterator[None]:
    """NumPy with the function that 2.4 took away."""
    np.trapz = np.trapezoid  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del np.trapz


def _top(maps: Tensor, count: int) -> Tensor:
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count]
    masks = torch.zeros(len(maps), maps[0].numel(), dtype=torch.bool)
    return masks.scatter_(1, order, True).view_as(maps)


def _from_percentile(maps: Tensor, percentile: float) -> Tensor:
    bounds = [float(np.percentile(one.numpy(), percentile)) for one in maps]
    return maps >= torch.tensor(bounds)[:, None, None]


def _imputed(given: Given, count: int) -> Tensor:
    return road(given.images, _top(given.maps, count), noise=0)


def _agreement(given: Given, counts: list[int]) -> Tensor:
    """The share of images whose prediction stays, with so many pixels imputed, (len(counts),)."""
    with torch.no_grad():
        stays = [
            (given.network(_imputed(given, count)).argmax(1) == given.targets).double().mean()
            for count in counts
        ]
    return torch.stack(stays)


def _probability_of(target: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits.softmax(-1)[target]


def _without_noise(metric: Callable[[float], Any]) -> Callable[[float], Any]:
    def quiet(percentile: float) -> Any:
        found = metric(percentile)
        found.perturbation.imputer.noise = 0
        return found

    return quiet
