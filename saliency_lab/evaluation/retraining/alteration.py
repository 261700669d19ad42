"""Images without, or with nothing but, the pixels that a map calls the most important."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saliency_lab.evaluation.retraining.conditions import Condition
from saliency_lab.imputation.fills import Streams, UniformStreams
from saliency_lab.imputation.linear import road

_WHITE = 255


def pixel_ranks(maps: Tensor, generator: UniformStreams) -> Tensor:
    """The place of each pixel in its map's descending order, 0 for the most important.

    Tied pixels are ranked at random, each image by its own stream: by index they would be a block
    of rows, and what is left of an image a strip of it.

    Args:
        maps: (B, H, W), floating, finite.
        generator: one stream per image.

    Returns:
        (B, H, W), int64, each image a permutation of 0 … H·W − 1, on the maps' device.
    """
    flat = maps.detach().flatten(1)
    drawn = generator.uniform(*maps.shape[1:]).flatten(1).to(maps.device)
    shuffled = drawn.argsort(dim=1, stable=True)
    order = flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    pixels = shuffled.gather(1, order)
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(pixels)
    return torch.empty_like(pixels).scatter_(1, pixels, places).view(maps.shape)


def altered(
    images: Tensor,
    ranks: Tensor,
    condition: Condition,
    mean: Sequence[int],
    generator: Streams,
) -> Tensor:
    """Images altered by the ranks of their pixels, rounded to whole values as images on disk are.

    The round(fraction·H·W) pixels of the lowest ranks are the most important ones; Python's
    `round` takes halves to the even neighbour.

    Args:
        images: uint8 (B, C, H, W).
        ranks: (B, H, W), see `pixel_ranks`.
        condition: what is done.
        mean: per channel what the fill `mean` writes: the mean of the training images, as in ROAR;
            not that of each image, which the deletion curves' fill of this name takes.
        generator: one stream per image, from which `road` draws its noise.

    Returns:
        uint8 (B, C, H, W) on the CPU, so that the result is the same on every machine.

    Source: Hooker, Erhan, Kindermans, Kim, "A benchmark for interpretability methods in deep neural
    networks", 2019, section 3; Rong et al., "A consistent and efficient evaluation strategy for
    attribution methods", 2022, sections 3 and 4.2 (leakage through masks; imputation).
    """
    images, ranks = images.cpu(), ranks.cpu()
    important = ranks < round(condition.fraction * ranks[0].numel())
    if condition.order == "mask":
        shown = important[:, None].to(torch.uint8) * _WHITE
        return shown.expand_as(images).contiguous()
    removed = ~important if condition.order == "keep" else important
    if condition.fill == "mean":
        values = torch.tensor(list(mean), dtype=torch.uint8).view(1, -1, 1, 1)
        return torch.where(removed[:, None], values, images)
    filled = road(images.float() / _WHITE, removed, generator=generator)
    return (filled.clamp(0, 1) * _WHITE).round().to(torch.uint8)
