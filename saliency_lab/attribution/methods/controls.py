"""Maps that know nothing of the model, or contradict it: what a method has to beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency_lab.attribution.core.field import input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.attribution.methods.gradient import gradient

# Smoothing times difference, over the sum of the weights of one side.
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4


@input_gradients_only
def random_map(
    model: nn.Module, images: Tensor, targets: Tensor, *, generator: SampleGenerator | None = None
) -> Tensor:
    """Independent uniform numbers.

    Args:
        model, targets: not used.
        images: shape (B, C, H, W).
        generator: one stream per image.

    Returns:
        Shape (B, H, W), float32, in [0, 1).
    """
    return restarted(generator, images).uniform(*images.shape[2:]).to(images.device)


@input_gradients_only
def sobel(
    model: nn.Module, images: Tensor, targets: Tensor, *, generator: SampleGenerator | None = None
) -> Tensor:
    """Edges of the image: the Sobel gradient's magnitude, the largest over channels.

    The edge detector is the control of Adebayo et al. 2018, section 5; borders are replicated.

    Args:
        model, targets, generator: not used.
        images: shape (B, C, H, W), in [0, 1].

    Returns:
        Shape (B, H, W), float32, non-negative; 1 at an ideal horizontal or vertical edge between
        black and white.
    """
    kernel = SOBEL.to(images)
    planes = F.pad(images.detach().flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    edges = F.conv2d(planes, torch.stack([kernel, kernel.T])[:, None])
    magnitude = edges.square().sum(1).sqrt()
    return magnitude.view(*images.shape).amax(1).float()


@input_gradients_only
def centre_bias(
    model: nn.Module, images: Tensor, targets: Tensor, *, generator: SampleGenerator | None = None
) -> Tensor:
    """A bump in the middle of the image, where photographers put their subjects.

    Args:
        model, targets, generator: not used.
        images: shape (B, C, H, W).

    Returns:
        Shape (B, H, W), float32, in (0, 1]: a Gaussian whose standard deviations are a quarter of
        the height and of the width.
    """
    height, width = images.shape[2:]
    # Pixel centres, in standard deviations from the middle.
    row, column = (
        torch.linspace(-2, 2, side + 1, dtype=torch.float64)[:-1] + 2 / side
        for side in (height, width)
    )
    bump = torch.exp(-(row[:, None].square() + column.square()) / 2)
    return bump.float().expand(len(images), -1, -1).clone().to(images.device)


@input_gradients_only
def inverted(
    model: nn.Module, images: Tensor, targets: Tensor, *, generator: SampleGenerator | None = None
) -> Tensor:
    """Minus the map `original`: the gradient's least important pixels first.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        targets: the explained classes, int64, shape (B,).
        generator: not used.

    Returns:
        Shape (B, H, W), float32, not positive: −max_k abs(∂S_c/∂I).
    """
    return -gradient(model, images).of(targets).abs().amax(1).float()
