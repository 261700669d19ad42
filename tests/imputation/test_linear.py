"""Noisy linear imputation against a dense system, an affine image and two other libraries."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.imputation.fills import fill_images, replacement
from saliency_lab.imputation.linear import (
    iterative_solution,
    linear_imputation,
    road,
    sparse_solution,
)


def drawn_masks(number: int, height: int, width: int, share: float = 0.5) -> Tensor:
    stream = torch.Generator().manual_seed(3)
    return torch.rand(number, height, width, generator=stream) < share


def drawn_images(
    number: int, height: int, width: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    stream = torch.Generator().manual_seed(4)
    return torch.rand(number, 3, height, width, generator=stream, dtype=torch.float64).to(dtype)


def by_dense_system(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel: one dense equation per removed pixel and channel."""
    height, width = mask.shape
    unknown = [(r, c) for r in range(height) for c in range(width) if mask[r, c]]
    found = image.copy()
    matrix = np.zeros((len(unknown), len(unknown)))
    for channel in range(len(image)):
        side = np.zeros(len(unknown))
        for place, (r, c) in enumerate(unknown):
            near = [
                (r + i, c + j, 1 / 12 if i * j else 1 / 6)
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
                if (i, j) != (0, 0) and 0 <= r + i < height and 0 <= c + j < width
            ]
            total = sum(weight for *_, weight in near)
            matrix[place] = 0
            matrix[place, place] = 1
            for i, j, weight in near:
                if mask[i, j]:
                    matrix[place, unknown.index((i, j))] = -weight / total
                else:
                    side[place] += weight / total * image[channel, i, j]
        for (r, c), value in zip(unknown, np.linalg.solve(matrix, side), strict=True):
            found[channel, r, c] = value
    return found


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_is_the_solution_of_a_dense_system(share: float) -> None:
    images, masks = drawn_images(3, 7, 9), drawn_masks(3, 7, 9, share)
    found = linear_imputation(images, masks)
    for row in range(3):
        expected = by_dense_system(images[row].numpy(), masks[row].numpy())
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-12)


def test_an_affine_image_with_a_hole_inside_is_restored() -> None:
    rows, columns = torch.arange(32.0).double()[:, None], torch.arange(32.0).double()
    image = torch.stack([0.1 + rows / 50 + columns / 90, 0.9 - (rows + 0 * columns) / 80])
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 5:25, 8:28] = True
    hidden = torch.where(mask[:, None], 7.0, image[None])
    torch.testing.assert_close(linear_imputation(hidden, mask)[0], image, atol=1e-10, rtol=0)


def test_conjugate_gradients_find_the_same() -> None:
    """What runs on a GPU, on the CPU: scattered pixels, a large hole, one pixel that is left."""
    images, masks = drawn_images(4, 40, 30), drawn_masks(4, 40, 30)
    masks[1], masks[2], masks[3] = False, True, True
    masks[1, 3:35, 4:28] = True
    masks[2, 11, 7] = False
    masks[3, :, :4] = False
    expected = sparse_solution(images, masks)
    torch.testing.assert_close(iterative_solution(images, masks), expected, atol=1e-6, rtol=0)
    assert not expected.masked_select(~masks[:, None]).any()


def test_masks_shared_by_images_give_what_each_image_gives_alone() -> None:
    images, masks = drawn_images(6, 8, 8), drawn_masks(6, 8, 8)
    masks[3], masks[5], masks[4] = masks[0], masks[0], masks[2]
    together = linear_imputation(images, masks)
    for row in range(6):
        alone = linear_imputation(images[row : row + 1], masks[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-13, rtol=0)


def test_nothing_and_everything_removed() -> None:
    images = drawn_images(2, 6, 5, torch.float32)
    masks = torch.zeros(2, 6, 5, dtype=torch.bool)
    assert torch.equal(linear_imputation(images, masks), images)
    masks[1] = True
    found = linear_imputation(images, masks)
    assert torch.equal(found[0], images[0])
    expected = images[1].mean((1, 2))[:, None, None].expand(3, 6, 5)
    torch.testing.assert_close(found[1], expected)
    assert found.dtype == torch.float32


def test_noise_is_that_of_the_image_and_lies_on_removed_pixels_only() -> None:
    images, masks = drawn_images(40, 12, 12, torch.float32), drawn_masks(40, 12, 12)
    ids = [f"image {place}" for place in range(40)]
    noisy = road(images, masks, generator=SampleGenerator(7, ids))
    added = noisy - road(images, masks, noise=0)
    assert not added.masked_select(~masks[:, None]).any()
    values = added.masked_select(masks[:, None].expand_as(added))
    assert float(values.std()) == pytest.approx(0.01, rel=0.03)
    assert abs(float(values.mean())) < 3e-4
    alone = road(images[5:6], masks[5:6], generator=SampleGenerator(7, ids[5:6]))
    torch.testing.assert_close(alone[0], noisy[5], atol=1e-6, rtol=0)
    assert torch.equal(road(images, masks)[0], road(images[:1], masks[:1])[0])


def test_wrong_masks_and_names_are_refused() -> None:
    images, masks = drawn_images(2, 6, 5), drawn_masks(2, 6, 5)
    with pytest.raises(UserError, match=r"`masks` to be bool \(2, 6, 5\).*got \(2, 5, 6\)"):
        road(images, masks.mT)
    with pytest.raises(UserError, match="torch.float32"):
        road(images, masks.float())
    with pytest.raises(UserError, match="`noise`"):
        road(images, masks, noise=-1)
    with pytest.raises(UserError, match="`images`"):
        road(images[0], masks)
    with pytest.raises(UserError, match="`generator`"):
        replacement(images, "road")
    with pytest.raises(UserError, match="does not depend"):
        fill_images(images, "road")


@pytest.mark.skipif(
    importlib.util.find_spec("pytorch_grad_cam") is None, reason="pytorch-grad-cam is missing"
)
def test_pytorch_grad_cam_imputes_the_same() -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    images, masks = drawn_images(3, 32, 32, torch.float32), drawn_masks(3, 32, 32, 0.7)
    found = road(images, masks, noise=0)
    for row in range(3):
        expected = NoisyLinearImputer(noise=0)(images[row], (~masks[row]).float())
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(importlib.util.find_spec("quantus") is None, reason="quantus is missing")
def test_quantus_imputes_the_same() -> None:
    from quantus.functions.perturb_func import noisy_linear_imputation

    images, masks = drawn_images(3, 32, 32), drawn_masks(3, 32, 32, 0.7)
    found = road(images, masks, noise=0)
    for row in range(3):
        indices = np.flatnonzero(masks[row].numpy())
        expected = noisy_linear_imputation(images[row].numpy(), indices, noise=0)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-5)
