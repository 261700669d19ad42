"""Noisy linear imputation (ROAD): removed pixels follow from those around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from saliency_lab.errors import UserError
from saliency_lab.frozen import without_autocast
from saliency_lab.inputs import given_images, given_tensor

Imputation = Callable[[Tensor, Tensor], Tensor]
"""From images' places in their batch (n,) and what is removed of them, bool (n, H, W), to the
images with those pixels replaced, (n, C, H, W)."""

NOISE = 0.01

# Unknowns of one factorisation: small systems share one, large ones have one each.
_UNKNOWNS = 20_000
# Steps between two looks at the residual, each of which waits for the device.
_STEPS = 16
_DIRECT, _DIAGONAL = 1 / 6, 1 / 12
_OFFSETS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NormalStreams(Protocol):
    """Where noise comes from: one stream per image (core.random_streams.SampleGenerator)."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, shape (B, *shape), float32 on the CPU."""
        ...


def road(
    images: Tensor, masks: Tensor, *, noise: float = NOISE, generator: NormalStreams | None = None
) -> Tensor:
    """Images whose removed pixels are imputed from their neighbours, with a little noise.

    Args:
        images: floating (B, C, H, W); tensors or NumPy arrays, as masks are.
        masks: bool (B, H, W), True where a pixel is removed, in all channels.
        noise: standard deviation of what is added to every imputed value.
        generator: one random stream per image; None: seeds 0, 1, … by the place in the batch.

    Returns:
        (B, C, H, W) in the images' dtype and on their device. Values are not clamped to [0, 1].

    Raises:
        UserError: masks that are not bool or do not fit the images, noise below 0.

    Source: Rong, Leemann, Borisov, Kasneci, Kasneci, "A consistent and efficient evaluation
    strategy for attribution methods", 2022, section 4.2.
    """
    images, masks = given_images(images, None), given_tensor(masks, "masks", "(B, H, W)")
    imputation = road_imputation(images, noise=noise, generator=generator)
    return imputation(torch.arange(len(images), device=images.device), masks)


def road_imputation(
    images: Tensor, *, noise: float = NOISE, generator: NormalStreams | None = None
) -> Imputation:
    """`road` of these images under any masks; an image has the same noise under each of them.

    Raises:
        UserError: images that are not floating (B, C, H, W), noise below 0.
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise UserError(
            f"Expected `images` to be floating (B, C, H, W), but got {tuple(images.shape)} of "
            f"{images.dtype}."
        )
    if not noise >= 0:
        raise UserError(f"Expected `noise` to be 0 or more, but got {noise}.")
    added = None
    if noise:
        drawn = _drawn(images) if generator is None else generator.normal(*images.shape[1:])
        added = (noise * drawn).to(images)

    def imputed(places: Tensor, removed: Tensor) -> Tensor:
        chosen = images[places]
        filled = linear_imputation(chosen, removed)
        if added is None:
            return filled
        return torch.where(removed[:, None], filled + added[places], filled)

    return imputed


@without_autocast()
def linear_imputation(images: Tensor, masks: Tensor) -> Tensor:
    """Images whose removed pixels are the weighted means of their eight neighbours.

    Direct neighbours weigh 1/6, diagonal ones 1/12; where neighbours lie outside the image the
    weights of the others are divided by their sum. Removed neighbours are unknowns, so the
    removed pixels of an image are one sparse, symmetric, positive definite system, which is
    factored once for all channels and all images that share a mask. On a CPU the systems are
    solved directly (SuperLU), elsewhere by conjugate gradients in float64 on the device.
    An image that is removed as a whole becomes its mean, per channel: nothing else is left of it.

    Args:
        images: floating (B, C, H, W).
        masks: bool (B, H, W), True where a pixel is removed.

    Returns:
        (B, C, H, W); pixels that are kept are the images' own, bit by bit.

    Raises:
        UserError: masks that are not bool or do not fit the images.
    """
    if masks.dtype != torch.bool or masks.shape != (len(images), *images.shape[2:]):
        raise UserError(
            f"Expected `masks` to be bool {(len(images), *images.shape[2:])} for these images, "
            f"but got {tuple(masks.shape)} of {masks.dtype}."
        )
    masks = masks.to(images.device)
    solve = sparse_solution if images.device.type == "cpu" else iterative_solution
    whole = masks.flatten(1).all(1)[:, None, None, None]
    partly = masks & ~whole[:, 0]
    solved = torch.where(whole, images.mean((2, 3), keepdim=True), solve(images, partly).to(images))
    return torch.where(masks[:, None], solved, images)


def sparse_solution(images: Tensor, masks: Tensor) -> Tensor:
    """The imputed pixels by direct factorisation, 0 elsewhere; float64 (B, C, H, W) on the CPU.

    No mask may remove a whole image.
    """
    pixels = images.detach().cpu().permute(0, 2, 3, 1).numpy().astype(np.float64)
    removed = masks.cpu().numpy()
    solved = np.zeros_like(pixels)
    for rows in _shared(removed):
        # Images that share their masks stand beside each other, as further right-hand sides.
        group = removed[rows[:, 0]]
        unknown = np.nonzero(group)
        if not len(unknown[0]):
            continue
        kept = np.where(group[..., None, None], 0, np.moveaxis(pixels[rows], 1, 3))
        matrix, sides = _system(group, unknown, kept)
        factor = splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        found = factor.solve(sides.reshape(len(sides), -1)).reshape(sides.shape)
        for share in range(rows.shape[1]):
            solved[rows[unknown[0], share], unknown[1], unknown[2]] = found[:, share]
    return torch.from_numpy(solved).permute(0, 3, 1, 2)


def iterative_solution(
    images: Tensor, masks: Tensor, *, tolerance: float = 1e-9, most: int = 20_000
) -> Tensor:
    """The imputed pixels by conjugate gradients, 0 elsewhere; float64, on the images' device.

    All images and channels are advanced together, each with step lengths of its own, with the
    diagonal as preconditioner, until every residual is at most `tolerance` of its right-hand
    side or `most` steps were done. No mask may remove a whole image.
    """
    removed = masks[:, None].double()
    sides = _neighbours(images.detach().double() * (1 - removed)) * removed
    total = _neighbours(torch.ones_like(removed))
    solved = torch.zeros_like(sides)
    residual = sides.clone()
    conditioned = residual / total
    direction = conditioned.clone()
    product = _dot(residual, conditioned)
    goal = tolerance**2 * _dot(sides, sides / total)
    for step in range(most):
        if step % _STEPS == 0 and bool((product <= goal).all()):
            break
        image = removed * (total * direction - _neighbours(direction))
        length = _share(product, _dot(direction, image))
        solved += length * direction
        residual -= length * image
        conditioned = residual / total
        before, product = product, _dot(residual, conditioned)
        direction = conditioned + _share(product, before) * direction
    return solved


def _drawn(images: Tensor) -> Tensor:
    streams = [torch.Generator().manual_seed(place) for place in range(len(images))]
    shape = images.shape[1:]
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])


def _shared(removed: NDArray[np.bool_]) -> Iterator[Ints]:
    """Rows of images (G, R): G different masks, each shared by R images, in one factorisation."""
    same: dict[bytes, list[int]] = {}
    for row, mask in enumerate(np.packbits(removed.reshape(len(removed), -1), axis=1)):
        same.setdefault(mask.tobytes(), []).append(row)
    by_share: dict[int, list[list[int]]] = {}
    for rows in same.values():
        by_share.setdefault(len(rows), []).append(rows)
    counts = removed.sum((1, 2))
    for groups in by_share.values():
        taken: list[list[int]] = []
        unknowns = 0
        for rows in groups:
            if taken and unknowns + counts[rows[0]] > _UNKNOWNS:
                yield np.array(taken)
                taken, unknowns = [], 0
            taken.append(rows)
            unknowns += int(counts[rows[0]])
        yield np.array(taken)


def _system(
    group: NDArray[np.bool_], unknown: tuple[Ints, ...], kept: Floats
) -> tuple[Any, Floats]:
    """The matrix and right-hand sides (n, R, C) of the unknowns of masks (G, H, W).

    `kept` is (G, H, W, R, C), 0 where a pixel is removed.
    """
    count = len(unknown[0])
    places = np.full((len(group), group.shape[1] + 2, group.shape[2] + 2), -1)
    numbers = np.arange(count)
    mask, row, column = unknown
    places[mask, row + 1, column + 1] = numbers
    diagonal = np.zeros(count)
    sides = np.zeros((count, *kept.shape[3:]))
    rows, columns, values = [numbers], [numbers], [diagonal]
    for down, right in _OFFSETS:
        weight = _DIAGONAL if down and right else _DIRECT
        r, c = row + down, column + right
        inside = (r >= 0) & (r < group.shape[1]) & (c >= 0) & (c < group.shape[2])
        diagonal += weight * inside
        sides[inside] += weight * kept[mask[inside], r[inside], c[inside]]
        other = places[mask, r + 1, c + 1]
        linked = other >= 0
        rows.append(numbers[linked])
        columns.append(other[linked])
        values.append(np.full(int(linked.sum()), -weight))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csc_matrix(entries, shape=(count, count)), sides


def _neighbours(values: Tensor) -> Tensor:
    """The weighted sum of the eight neighbours inside the image: ([1 2 1]ᵀ[1 2 1] − 4) / 12."""
    return (_smoothed(_smoothed(values, 2), 3) - 4 * values) / 12


def _smoothed(values: Tensor, axis: int) -> Tensor:
    size = values.shape[axis]
    padding = (1, 1) if axis == 3 else (0, 0, 1, 1)
    padded = F.pad(values, padding)
    return 2 * values + padded.narrow(axis, 0, size) + padded.narrow(axis, 2, size)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where nothing is left to do."""
    return torch.where(whole > 0, part / whole.clamp_min(torch.finfo(whole.dtype).tiny), 0.0)
