"""The paper's two kinds of figures: hulls on images, and attributions of original and GAD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saliency_lab.attribution.core.importance import important_pixels
from saliency_lab.evaluation.hull.hulls import convex_hulls, relative_complexity

LEVEL = 0.1
"""The paper's figures show the pixels above this share of a map's maximum."""
RED, GREEN, BLUE = "#d62728", "#2ca02c", "#1f4fd6"

Arrays = NDArray[np.float32]


def hull_figure(images: NDArray[np.uint8], original: Arrays, gad: Arrays, title: str) -> Figure:
    """Each image with the outline of the original map's hull (red) and of GAD's (green).

    Args:
        images: uint8 (N, H, W, C).
        original, gad: maps (N, H, W).
        title: above the figure.
    """
    maps = torch.from_numpy(original), torch.from_numpy(gad)
    filled = [convex_hulls(important_pixels(values, LEVEL, "above")).filled for values in maps]
    ratio = relative_complexity(maps[1], maps[0], level=LEVEL, rule="above")

    def draw(axes: Axes, at: int) -> None:
        axes.imshow(_picture(images[at]), cmap="gray", vmin=0, vmax=255)
        for hull, colour in zip(filled, (RED, GREEN), strict=True):
            # A border of pixels outside, so that an outline at the image's edge closes.
            padded = np.pad(hull[at].numpy().astype(float), 1)
            places = [np.arange(-1, side - 1) for side in padded.shape[::-1]]
            if padded.any():
                axes.contour(*places, padded, levels=[0.5], colors=colour, linewidths=1.6)
        axes.set_title(f"RC {float(ratio[at]):.2f}", fontsize=8)

    return _panels(len(images), draw, f"{title}\nhulls: original red, GAD green")


def attribution_figure(
    images: NDArray[np.uint8], original: Arrays, gad: Arrays, title: str
) -> Figure:
    """Each image, pale, with the original map's pixels in blue and those that GAD keeps in red.

    Arguments as in `hull_figure`.
    """
    masks = [
        important_pixels(torch.from_numpy(values), LEVEL, "above").numpy()
        for values in (original, gad)
    ]

    def draw(axes: Axes, at: int) -> None:
        pale = 0.35 * np.mean(_picture(images[at]), axis=-1) + 0.65 * 255
        axes.imshow(pale, cmap="gray", vmin=0, vmax=255)
        for mask, colour in zip(masks, (BLUE, RED), strict=True):
            shown = np.zeros((*mask[at].shape, 4))
            shown[mask[at]] = [*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), 0.85]
            axes.imshow(shown, interpolation="nearest")
        axes.set_title(f"{masks[0][at].sum()} → {masks[1][at].sum()} pixels", fontsize=8)

    return _panels(len(images), draw, f"{title}\nimportant pixels: original blue, GAD red")


def _picture(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _panels(count: int, draw: Callable[[Axes, int], None], title: str) -> Figure:
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.7 * columns, 1.9 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    for at in range(rows * columns):
        axes = figure.add_subplot(rows, columns, at + 1)
        axes.set_axis_off()
        if at < count:
            draw(axes, at)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure
