"""MuFidelity, faithfulness correlation, sensitivity-n and infidelity by the peers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.conformance.curves import one_hot, operator, value_removals
from benchmarks.conformance.given import STEPS, Given, Line, largest
from saliency_lab.attribution.core.random_streams import separate
from saliency_lab.evaluation.correlation import pearson
from saliency_lab.evaluation.infidelity.perturbations import drawn_perturbations, moments
from saliency_lab.evaluation.mu_fidelity.subsets import drawn_subsets, grid_cells, mu_fidelity

_QUANTUS = {"disable_warnings": True, "normalise": False, "perturb_baseline": 0.0}
_DRAWS, _SIZE, _SUBSETS = 100, 0.2, 200


def xplique_mu_fidelity(given: Given) -> list[Line]:
    """Over its own subsets; over those of this program's run; and of a map of ones."""
    import tensorflow as tf
    from xplique.metrics import MuFidelity

    subsets = drawn_subsets(given.streams("mu_fidelity"), 9, 0.2, _SUBSETS)
    ours = subsets[:, :, grid_cells(*given.maps.shape[1:], 9)].float()[..., None].numpy()

    class OverOurs(MuFidelity):
        """Replaces the cells that this program's run replaced."""

        row = 0

        def _perturb_samples(self, inputs: Any, nb_perturbations: int) -> Any:
            kept = 1 - ours[self.row]
            return tf.constant(np.asarray(inputs)[0] * kept), tf.constant(kept[None])

    tf.random.set_seed(0)
    ranks, values = (given.scores("mu_fidelity", name) for name in ("rank_fidelity", "mu_fidelity"))
    ones = torch.ones_like(given.maps)
    nothing = mu_fidelity(given.network, given.images, ones)
    same = largest(_mu_fidelities(given, OverOurs, given.maps), ranks)
    theirs = _mu_fidelities(given, MuFidelity, given.maps)
    of_ones = _mu_fidelities(given, MuFidelity, ones)
    sizes = "each cell is drawn by itself, so sizes vary, and a larger subset has both a larger "
    sizes += "sum of magnitudes and a larger drop"
    return [
        _line("MuFidelity of ranks", "xplique", ranks, theirs, same, sizes),
        _line("MuFidelity", "xplique", values, theirs, None, "as above, and it correlates ranks"),
        _line("MuFidelity of a map of ones", "xplique", nothing, of_ones, None, "as above"),
    ]


def _mu_fidelities(given: Given, kind: Any, maps: Tensor) -> list[float]:
    """xplique's score of each image by itself."""
    found = []
    for row in range(len(given.images)):
        metric = kind(
            given.network,
            given.images[[row]].permute(0, 2, 3, 1).numpy(),
            one_hot(given)[[row]],
            batch_size=_SUBSETS,
            operator=operator(given, lambda logits: logits),
        )
        metric.row = row
        found.append(metric.evaluate(maps[[row]].numpy()))
    return found


def quantus_faithfulness_correlation(given: Given) -> list[Line]:
    """Bhatt et al. 2020 without a grid: single values, the three channels drawn by themselves."""
    import quantus

    count, features = given.images[0].numel() // 5, given.images[0].numel()
    metric = quantus.FaithfulnessCorrelation(
        subset_size=count, nr_runs=_DRAWS, return_aggregate=False, **_QUANTUS
    )
    np.random.seed(0)
    theirs = metric(model=given.network, softmax=False, device="cpu", **given.numpy())
    np.random.seed(0)
    sums, drops = [], []
    flat = given.maps[:, None].expand_as(given.images).flatten(1)
    for _ in range(_DRAWS):
        chosen = torch.from_numpy(
            np.stack([np.random.choice(features, count, replace=False) for _ in given.ids])
        )
        altered = given.images.flatten(1).scatter(1, chosen, 0.0).view_as(given.images)
        drops.append(_drop(given, altered))
        sums.append(flat.gather(1, chosen).double().sum(1))
    same = pearson(torch.stack(sums, 1), torch.stack(drops, 1))
    ours = given.scores("mu_fidelity", "mu_fidelity")
    cause = "draws values of single channels, not cells of a grid"
    return [_line("MuFidelity", "Quantus", ours, theirs, largest(theirs, same), cause)]


def quantus_sensitivity_n(given: Given) -> list[Line]:
    import quantus

    step = given.maps[0].numel() // STEPS
    metric = quantus.SensitivityN(
        features_in_step=step, n_max_percentage=1.0, return_aggregate=False, **_QUANTUS
    )
    theirs = metric(model=given.network, softmax=False, device="cpu", **given.numpy())
    values = given.maps[:, None].expand_as(given.images).flatten(1).double()
    sums, drops = [], []
    for chosen, altered in itertools.islice(value_removals(given, step), STEPS):
        sums.append(values.gather(1, chosen).sum(1))
        drops.append(_drop(given, altered))
    same = pearson(torch.stack(sums), torch.stack(drops))
    ours = given.scores("sensitivity_n", "sensitivity_n")
    cause = (
        "correlates over images, not over sets of one image; pixels go by rank, not at random; "
        "drops pile up, sums are of the last step alone; stops at a third of the values"
    )
    mean = float(np.mean(theirs))
    apart = abs(mean - float(ours.mean()))
    return [
        Line("sensitivity-n", "Quantus", float(ours.mean()), mean, apart, largest(theirs, same),
             cause)
    ]  # fmt: skip


def captum_infidelity(given: Given) -> list[Line]:
    """Under the very perturbations of this program's run."""
    from captum.metrics import infidelity

    streams = separate(given.streams("infidelity"))
    taken = torch.stack(
        [
            drawn_perturbations(image, stream, "noise", _SIZE, _DRAWS)
            for image, stream in zip(given.images, streams, strict=True)
        ]
    )

    def perturbed(inputs: Tensor) -> tuple[Tensor, Tensor]:
        chosen = taken.flatten(0, 1)
        return chosen, inputs - chosen

    spread = given.maps[:, None].expand_as(given.images)
    scaled, plain = (
        infidelity(
            given.network, perturbed, given.images, spread, target=given.targets,
            n_perturb_samples=_DRAWS, normalize=normalize,
        )
        for normalize in (True, False)
    )  # fmt: skip
    found = moments(
        lambda images: given.network(images).detach(), given.images, given.maps[None],
        given.target_logits(given.images), given.targets, given.streams("infidelity"), "noise",
        _SIZE, _DRAWS,
    )  # fmt: skip
    same = (found.predicted - 2 * found.crossed + found.changed)[0] / _DRAWS
    ours = given.scores("infidelity", "residual")
    share = largest(plain / same, torch.ones_like(same))
    return [
        _line("infidelity, best scale", "Captum", ours, scaled, None, ""),
        _line("infidelity", "Captum", ours, plain, share, "no scale is fitted (normalize=False)"),
    ]


def quantus_infidelity(given: Given) -> list[Line]:
    """Its blocks go black one after another and are never put back."""
    import quantus

    side = 8
    metric = quantus.Infidelity(perturb_patch_sizes=[side], n_perturb_samples=1, **_QUANTUS)
    theirs = metric(model=given.network, softmax=False, device="cpu", **given.numpy())
    altered, sums, drops = given.images.clone(), [], []
    height, width = given.maps.shape[1:]
    for row in range(0, height, side):
        for column in range(0, width, side):
            altered[:, :, row : row + side, column : column + side] = 0
            taken = (given.images - altered).double()
            sums.append((given.maps[:, None].double() * taken).sum((1, 2, 3)))
            drops.append(_drop(given, altered))
    same = (torch.stack(sums, 1) - torch.stack(drops, 1)).square().mean(1)
    ours = given.scores("infidelity", "residual")
    share = largest(np.asarray(theirs) / same.numpy(), np.ones(len(same)))
    cause = "black blocks that pile up instead of independent noise; no scale is fitted"
    return [_line("infidelity", "Quantus", ours, theirs, share, cause)]


def _drop(given: Given, altered: Tensor) -> Tensor:
    return given.target_logits(given.images) - given.target_logits(altered)


def _line(
    measure: str, peer: str, ours: Tensor, theirs: Any, repeated: float | None, cause: str
) -> Line:
    values = np.asarray(theirs, dtype=np.float64)
    return Line(
        measure, peer, float(ours.mean()), float(values.mean()), largest(ours, values), repeated,
        cause,
    )  # fmt: skip
