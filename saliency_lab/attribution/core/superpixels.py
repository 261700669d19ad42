"""Superpixels, and logits of an image of which only some superpixels are shown."""

from __future__ import annotations

import math
from typing import Literal

import torch
from skimage.segmentation import slic
from torch import Tensor, nn

from saliency_lab.attribution.core.perturbation import altered_logits

Superpixels = Literal["slic", "grid"]


def superpixel_labels(image: Tensor, superpixels: Superpixels, segments: int) -> Tensor:
    """Which superpixel each pixel belongs to.

    Args:
        image: shape (C, H, W), in [0, 1].
        superpixels: `slic` follows the colours (Achanta et al. 2012), `grid` is of rectangles.
        segments: about how many there should be.

    Returns:
        int64, shape (H, W), labels 0 … M − 1 without gaps; M is near `segments`.
    """
    channels, height, width = image.shape
    if superpixels == "slic":
        # Of an image that is not finite no map is; its segments only have to exist.
        pixels = image.detach().permute(1, 2, 0).cpu().double().nan_to_num(0.0, 1.0, 0.0).numpy()
        if channels == 1:
            # As a colour image, so that SLIC's weight of place against colour means the same.
            pixels = pixels.repeat(3, axis=2)
        labels = torch.from_numpy(
            # Without smoothing, noise in a photograph melts segments into a few large ones.
            slic(
                pixels,
                n_segments=segments,
                sigma=1,
                start_label=0,
                convert2lab=pixels.shape[2] == 3,
            )
        )
    else:
        cell = math.sqrt(height * width / segments)
        rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
        row = torch.arange(height) * rows // height
        column = torch.arange(width) * columns // width
        labels = row[:, None] * columns + column
    return torch.unique(labels, return_inverse=True)[1].view(height, width).to(image.device)


def shown_logits(
    model: nn.Module, image: Tensor, cover: Tensor, labels: Tensor, shown: Tensor, target: int
) -> Tensor:
    """Logit of the target with only some superpixels shown.

    Args:
        model: any module from images to logits (N, K).
        image: shape (C, H, W).
        cover: what hides a superpixel, shape (C, H, W).
        labels: int64, shape (H, W), in [0, M).
        shown: bool, shape (n, M).
        target: the class.

    Returns:
        float64, shape (n,), on the CPU.
    """
    # Shapley weights often draw the same one superpixel, or all but it: one forward does for both.
    distinct, places = torch.unique(shown, dim=0, return_inverse=True)
    distinct = distinct.to(image.device)

    def partly(part: slice) -> Tensor:
        return torch.where(distinct[part][:, labels][:, None], image, cover)

    logits = altered_logits(model, len(distinct), image, partly)[:, target].cpu().double()
    return logits[places.cpu()]


def segment_means(image: Tensor, labels: Tensor) -> Tensor:
    """Each pixel replaced by the mean colour of its superpixel, shape (C, H, W)."""
    flat, pixels = labels.flatten(), image.flatten(1)
    count = torch.bincount(flat)
    sums = pixels.new_zeros(len(pixels), len(count)).index_add_(1, flat, pixels)
    return (sums / count)[:, flat].view_as(image)
