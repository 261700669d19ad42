"""RISE: the class's probability under random masks."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from saliency_lab.attribution.core.field import input_gradients_only
from saliency_lab.attribution.core.perturbation import altered_logits, parts
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted, separate
from saliency_lab.frozen import require_classes


@input_gradients_only
def rise(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: Annotated[int, Gt(0)] = 1000,
    cells: Annotated[int, Gt(0)] = 7,
    keep: Annotated[float, Gt(0), Lt(1)] = 0.5,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """Σ_m p_c(I ⊙ M_m) M_m / (N · E[M]) (Petsiuk et al. 2018, equation 6).

    Masks are coarse random grids, enlarged bilinearly and shifted at random by less than a cell
    (section 3.2). A sum of probabilities has no sign, so this is a map: it has no views.

    Args:
        model: any module from images to logits (B, K); probabilities are their softmax.
        images: shape (B, C, H, W), in [0, 1]; hidden pixels become black.
        targets: the explained classes, int64, shape (B,).
        samples: N, masks per image (the paper: 4000 and 8000).
        cells: cells of the grid along a side.
        keep: E[M], the probability that a cell is shown.
        generator: one stream per image.

    Returns:
        Shape (B, H, W), float32, non-negative, in units of probability.

    Raises:
        UserError: the model has a single logit, whose softmax is 1.
    """
    images = images.detach()
    found = []
    for index, own in enumerate(separate(restarted(generator, images))):
        grids = (own.uniform(samples, cells + 1, cells + 1)[0] < keep).to(images)
        shifts = own.uniform(samples, 2)[0].to(images.device)
        found.append(_rise_map(model, images[index], int(targets[index]), grids, shifts) / keep)
    return torch.stack(found).float()


def _rise_map(
    model: nn.Module, image: Tensor, target: int, grids: Tensor, shifts: Tensor
) -> Tensor:
    total = torch.zeros_like(image[0])
    # Part by part, because all masks would not fit beside one another.
    for part in parts(len(grids), image):
        masks = shifted_masks(grids[part], shifts[part], *image.shape[1:])
        shown = masks[:, None] * image
        logits = altered_logits(model, len(shown), image, shown.__getitem__)
        require_classes(logits)
        total += torch.einsum("n,nhw->hw", logits.softmax(1)[:, target], masks)
    return total / len(grids)


def shifted_masks(grids: Tensor, shifts: Tensor, height: int, width: int) -> Tensor:
    """Enlarged and shifted grids.

    Args:
        grids: shape (n, cells + 1, cells + 1), 0 or 1.
        shifts: shape (n, 2), in [0, 1): by which part of a cell a mask is shifted.
        height, width: of the masks.

    Returns:
        Shape (n, height, width), in [0, 1].
    """
    rows = _enlarging(grids, shifts[:, 0], height)
    columns = _enlarging(grids, shifts[:, 1], width)
    # Two small products that write each mask once, instead of a larger image and a cut out of it.
    return rows @ grids @ columns.transpose(1, 2)


def _enlarging(grids: Tensor, shifts: Tensor, side: int) -> Tensor:
    """Bilinear weights of a grid's cells in each row of its shifted mask, (n, side, cells + 1)."""
    cells = grids.shape[1] - 1
    step = math.ceil(side / cells)
    places = (shifts * step).long()[:, None] + torch.arange(side, device=grids.device)
    # As `interpolate` without aligned corners: beyond the outer cells' centres nothing changes.
    centres = ((places + 0.5) / step - 0.5).clamp(0, cells).to(grids)
    apart = centres[:, :, None] - torch.arange(cells + 1, device=grids.device)
    return (1 - apart.abs()).clamp_min(0)
