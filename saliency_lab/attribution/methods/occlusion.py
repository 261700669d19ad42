"""Occlusion: how much each logit falls when a window is covered."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from saliency_lab.attribution.core.baselines import Baseline, baseline_images
from saliency_lab.attribution.core.field import ClassField, input_gradients_only
from saliency_lab.attribution.core.perturbation import altered_logits
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.errors import UserError


@input_gradients_only
def occlusion(
    model: nn.Module,
    images: Tensor,
    *,
    window: Annotated[float, Gt(0)] = 0.125,
    stride: Annotated[float, Gt(0)] = 0.0625,
    baseline: Baseline = "mean",
    generator: SampleGenerator | None = None,
) -> ClassField:
    """S_c(I) − S_c(I with a window covered), averaged over the windows that cover a pixel.

    Zeiler & Fergus 2014, section 4.2. The same forwards serve all K classes. A window covers all
    channels, so all channels of a pixel get the same value.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        window: side of the square window, in pixels; below 1 a share of the shorter side.
        stride: steps between windows, in the same units; a last window is put flush with the
            far border if the steps do not end there.
        baseline: what covers a window.
        generator: one stream per image, for the uniform baseline.

    Returns:
        Signed field in logit units: positive where covering lowers the logit.

    Raises:
        UserError: a window that is larger than the images, or a stride that leaves pixels between
            the windows.
    """
    images = images.detach()
    width, step = _in_pixels(images, window, stride)
    covers = baseline_images(images, baseline, restarted(generator, images))
    rows, columns = (_cover(side, images, width, step) for side in images.shape[2:])
    found = torch.stack(
        [
            _covered_logits(model, image, cover, rows, columns)
            for image, cover in zip(images, covers, strict=True)
        ]
    )
    intact, covered = found[:, 0], found[:, 1:]
    return _OcclusionField(intact, intact[:, None] - covered, rows, columns, images.shape[1])


class _OcclusionField:
    """Falls of the logits per window, spread over the windows' pixels when asked.

    Args:
        logits: shape (B, K).
        falls: shape (B, rows · columns, K).
        rows, columns: which pixels of a side each window position covers, shape (n, side), 0 or 1.
        channels: of the images.
    """

    def __init__(
        self, logits: Tensor, falls: Tensor, rows: Tensor, columns: Tensor, channels: int
    ) -> None:
        self.logits = logits
        self._falls, self._rows, self._columns, self._channels = falls, rows, columns, channels

    def of(self, classes: Tensor) -> Tensor:
        """Signed attribution of logit `classes[b]` of image b, shape (B, C, H, W)."""
        index = classes.to(self._falls.device)[:, None, None].expand(-1, self._falls.shape[1], 1)
        grid = self._falls.gather(2, index).view(-1, len(self._rows), len(self._columns))
        total = self._rows.T @ grid @ self._columns
        cover = self._rows.sum(0)[:, None] * self._columns.sum(0)
        return (total / cover)[:, None].repeat(1, self._channels, 1, 1)


def _in_pixels(images: Tensor, window: float, stride: float) -> tuple[int, int]:
    shorter = min(images.shape[2:])
    width = max(1, round(window * shorter if window < 1 else window))
    step = max(1, round(stride * shorter if stride < 1 else stride))
    if width > shorter:
        raise UserError(
            f"Expected `window` to be at most the {shorter} pixels of an image's shorter side, but "
            f"got {window:g}"
        )
    if step > width:
        covered = f"{width} pixel{'s' * (width > 1)}"
        raise UserError(
            f"Expected `stride` to be at most `window`, {covered} here, for no pixel to be left "
            f"uncovered, but got {stride:g}" + (f", {step} pixels" if stride < 1 else "")
        )
    return width, step


def _cover(side: int, images: Tensor, width: int, step: int) -> Tensor:
    starts = sorted({*range(0, side - width + 1, step), side - width})
    pixels = torch.arange(side)
    first = torch.tensor(starts)[:, None]
    return ((pixels >= first) & (pixels < first + width)).to(images)


def _covered_logits(
    model: nn.Module, image: Tensor, cover: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Logits of the intact image and of every window covered, shape (1 + windows, K).

    In one call, so that a window whose covering changes nothing has a fall of exactly 0.
    """

    def covered(part: slice) -> Tensor:
        index = torch.arange(part.start, part.stop, device=image.device) - 1
        row, column = rows[index // len(columns)], columns[index % len(columns)]
        inside = (row[:, :, None] * column[:, None, :] > 0) & (index >= 0)[:, None, None]
        return torch.where(inside[:, None], cover, image)

    return altered_logits(model, 1 + len(rows) * len(columns), image, covered)
