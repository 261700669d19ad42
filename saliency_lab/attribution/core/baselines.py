"""Images that stand for "nothing there", which path and perturbation methods start from."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.imputation.fills import plain_fill

Baseline = Literal["black", "white", "mean", "blur", "uniform"]


def baseline_images(images: Tensor, baseline: Baseline, generator: SampleGenerator) -> Tensor:
    """The baselines of a batch.

    Args:
        images: shape (B, C, H, W), in [0, 1].
        baseline: `black` is 0, `white` is 1, `mean` each image's own mean colour, `blur` the image
            under a Gaussian (see `imputation.fills`), `uniform` noise in [0, 1) drawn from the
            generator (the only one that draws).
        generator: one stream per image.

    Returns:
        Shape, dtype and device of the images, in [0, 1], detached.
    """
    fill = "noise" if baseline == "uniform" else baseline
    return plain_fill(images.detach(), fill, generator).clone()
