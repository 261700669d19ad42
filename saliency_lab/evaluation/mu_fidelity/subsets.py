"""Random cells of a grid, and how their attributions go with what their loss costs the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.errors import UserError
from saliency_lab.evaluation.correlation import pearson
from saliency_lab.evaluation.perturbation import (
    Forward,
    altered_scores,
    lent,
    require_finite_altered,
    target_logits,
)
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import given_batch


def mu_fidelity(
    model: nn.Module | PreparedModel,
    images: Tensor,
    maps: Tensor,
    *,
    grid: int = 9,
    share: float = 0.2,
    samples: int = 200,
    baseline: float = 0.0,
    targets: Tensor | int | None = None,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """Pearson's correlation, over random subsets of a grid's cells, of attribution and loss.

    For each subset, attribution is the sum of the map over the subset's pixels, and the loss is
    by how much the target's logit drops when those pixels become the baseline.

    Args:
        model: from images (B, C, H, W) to logits (B, K), or a prepared one; left unchanged.
        images: floating, (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array.
        maps: (B, H, W), finite.
        grid: cells along each side.
        share: of the cells in every subset.
        samples: subsets per image.
        baseline: the value that replaced pixels get.
        targets: the class whose logit is scored, (B,), or one for all; None: the predicted one.
        generator: random streams of the subsets; None: seeded by place.

    Returns:
        float64 (B,) in [−1, 1]; 0 where the map's sums or the logit do not vary.

    Raises:
        UserError: images, maps, logits or targets that do not fit or are not finite, a share that
            leaves nothing to choose.

    Source: Bhatt, Weller, Moura, "Evaluating and aggregating feature-based model explanations",
    2020, definition 3. Their subsets are of pixels; the grid is xplique's, which draws each cell
    by itself, so that sizes vary, and correlates ranks.
    """
    images, maps = given_batch(images, maps)
    subsets = drawn_subsets(restarted(generator, images), grid, share, samples).to(images.device)
    with lent(model, images, targets) as (forward, logits, classes):
        intact = target_logits(logits, classes)
        drops = subset_drops(forward, images, subsets, baseline, intact, classes)
    return pearson(subset_sums(maps, subsets), drops)


def grid_cells(height: int, width: int, grid: int) -> Tensor:
    """The cell of each pixel, int64 (H, W): the nearest cell's, as resizing the grid would do."""
    rows = (2 * torch.arange(height) + 1) * grid // (2 * height)
    columns = (2 * torch.arange(width) + 1) * grid // (2 * width)
    return rows[:, None] * grid + columns


def drawn_subsets(generator: SampleGenerator, grid: int, share: float, samples: int) -> Tensor:
    """Subsets of exactly round(share · grid²) cells, bool (B, samples, grid²).

    Raises:
        UserError: subsets would hold no cell, or all.
    """
    cells = grid * grid
    count = round(share * cells)
    if not 0 < count < cells:
        raise UserError(
            f"Expected `share` to leave 1 to {cells - 1} of {cells} cells, but {share} leaves "
            f"{count}."
        )
    chosen = generator.uniform(samples, cells).argsort(-1)[..., :count]
    subsets = torch.zeros(len(generator), samples, cells, dtype=torch.bool)
    return subsets.scatter_(2, chosen, True)


def subset_sums(maps: Tensor, subsets: Tensor) -> Tensor:
    """The sum of each map (B, H, W) over each subset (B, S, grid²), float64 (B, S)."""
    height, width = maps.shape[1:]
    cells = grid_cells(height, width, _side(subsets)).flatten().to(maps.device)
    totals = torch.zeros(len(maps), subsets.shape[2], dtype=torch.float64, device=maps.device)
    totals.index_add_(1, cells, maps.flatten(1).double())
    return (subsets.double() @ totals[:, :, None]).squeeze(2)


def subset_drops(
    forward: Forward,
    images: Tensor,
    subsets: Tensor,
    baseline: float,
    intact: Tensor,
    targets: Tensor,
) -> Tensor:
    """By how much the targets' logits drop as each subset becomes the baseline, float64 (B, S).

    Raises:
        NonFiniteAlteredError: the model's logits of some of these images are not finite.
    """
    cells = grid_cells(images.shape[2], images.shape[3], _side(subsets)).to(images.device)

    def altered(places: Tensor, numbers: Tensor) -> Tensor:
        gone = subsets[places, numbers][:, cells]
        return torch.where(gone[:, None], baseline, images[places])

    copies = subsets.shape[1]
    after = altered_scores(forward, images, targets, copies, altered)
    require_finite_altered(after, intact, f"images with cells replaced (baseline {baseline:g})")
    return intact[:, None] - after


def _side(subsets: Tensor) -> int:
    return round(subsets.shape[2] ** 0.5)
