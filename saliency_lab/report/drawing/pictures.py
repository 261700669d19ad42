"""Small pictures of maps for the page."""

from __future__ import annotations

import base64
import io

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saliency_lab.report.drawing.palette import MAP_COLOURS

_SIDE = 64


def map_png(values: NDArray[np.uint8]) -> str:
    """A map (H, W) in the colours of all maps, as a PNG in base64; larger ones are shrunk."""
    colours = (mpl.colormaps[MAP_COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    picture = Image.fromarray(values, mode="L")
    picture.thumbnail((_SIDE, _SIDE))
    picture = picture.convert("P")
    picture.putpalette(colours.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
