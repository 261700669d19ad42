"""A map laid over the image that it explains."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from saliency_lab.report.drawing.palette import MAP_COLOURS, SIGNED_COLOURS

CLIPPED = 0.995
"""Quantile of a map's strength that is drawn at full strength: a few extreme pixels would leave
the rest of a gradient's map invisible."""
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def overlaid(image: NDArray[np.uint8], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The image in grey, each pixel covered by its map's colour as far as the map is strong there.

    With the strength s = min(|m| / q, 1), q the 99.5th percentile of |m|, a pixel is
    (1 − s) · grey + s · colour. A map without negative values takes the palette of all maps; a
    signed one a diverging palette, red for what is positive and blue for what is negative.

    Args:
        image: (H, W, C), C of 1 or 3.
        values: the map (H, W), any scale; a map of zeros covers nothing.

    Returns:
        RGB (H, W, 3) in [0, 1].
    """
    grey = image[..., 0] / 255 if image.shape[-1] == 1 else image @ _LUMA / 255
    strength = np.abs(np.asarray(values, dtype=np.float64))
    top = float(np.quantile(strength, CLIPPED)) or float(strength.max()) or 1.0
    strength = np.minimum(strength / top, 1.0)
    if values.min() < 0:
        colours = mpl.colormaps[SIGNED_COLOURS](0.5 + 0.5 * np.sign(values) * strength)
    else:
        colours = mpl.colormaps[MAP_COLOURS](strength)
    cover = strength[..., None]
    return (1 - cover) * grey[..., None] + cover * colours[..., :3]
