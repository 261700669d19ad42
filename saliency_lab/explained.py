"""What `sl.explain` gives: maps by name, which draw themselves in a notebook."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

SHOWN = 8
"""Images that are drawn at most."""


class Maps(dict[str, Tensor]):
    """Maps (B, H, W) by name, and the images (B, C, H, W) that they are of.

    A dict in every way; a notebook shows it as a grid, an image with its maps in each row.
    """

    def __init__(self, maps: Mapping[str, Tensor], images: Tensor, captions: list[str]) -> None:
        super().__init__(maps)
        self.images = images
        self.captions = captions

    def _repr_png_(self) -> bytes:
        from saliency_lab.report.drawing.figures import example_grid, figure_bytes

        pixels = self.images[:SHOWN].detach().float().cpu()
        low, high = float(self.images.min()), float(self.images.max())
        if low < 0 or high > 1:
            # Of another range than [0, 1]: shown from its least to its greatest value.
            pixels = (pixels - low) / (high - low)
        drawn = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        if drawn.shape[-1] not in (1, 3):
            drawn = drawn[..., :1]
        maps = {name: values[:SHOWN].float().cpu().numpy() for name, values in self.items()}
        picture = figure_bytes(example_grid(drawn, maps, self.captions[:SHOWN]), dpi=72)
        return _small(picture)

    def __repr__(self) -> str:
        count, _, height, width = self.images.shape
        return f"Maps of {count} images ({height}×{width}): {', '.join(self)}"


def _small(picture: bytes) -> bytes:
    """The PNG in 128 colours: noisy maps in millions would make a notebook huge."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()
