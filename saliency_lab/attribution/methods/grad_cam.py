"""Grad-CAM, and guided backpropagation weighted by it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import chosen_scores, leaf, recording
from saliency_lab.attribution.core.layers import (
    chosen_layer,
    feature_map,
    is_channels_last,
    kept_output,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.guided_backprop import guided_backprop
from saliency_lab.errors import UserError
from saliency_lab.frozen import checked_logits


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    layer: str | None = None,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """ReLU(Σ_k α_k A^k), α_k the mean over positions of ∂S_c/∂A^k, enlarged to the image.

    Selvaraju et al. 2017, equations 1 and 2. The ReLU leaves the positive part only, so this is
    a map and no signed field: it has no views.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        targets: the explained classes, int64, shape (B,).
        layer: dotted name of the layer that gives the A^k; None for the last one with spatial
            extent, in a transformer `norm1` of the last block (see `layers.chosen_layer`). Tokens
            are laid on their grid, channels last are put first.
        generator: not used.

    Returns:
        Shape (B, H, W), float32, non-negative; bilinear between the layer's positions.

    Raises:
        UserError: no such layer, or none of the model's layers has positions on the image.
    """
    return _cams(model, images, layer)(targets)[:, 0].float()


def guided_grad_cam(
    model: nn.Module,
    images: Tensor,
    *,
    layer: str | None = None,
    generator: SampleGenerator | None = None,
) -> ClassField:
    """Guided backpropagation times Grad-CAM of the same class (Selvaraju et al. 2017, section 3.2).

    Arguments as in `grad_cam`.

    Returns:
        Signed field; the sign is that of guided backpropagation.

    Raises:
        UserError: as in `grad_cam` and `guided_backprop.guided_backprop`.
    """
    return _GuidedField(guided_backprop(model, images), _cams(model, images, layer))


class _GuidedField:
    def __init__(self, guided: ClassField, cams: Callable[[Tensor], Tensor]) -> None:
        self.logits = guided.logits
        self._guided, self._cams = guided, cams

    def of(self, classes: Tensor) -> Tensor:
        """Signed attribution of logit `classes[b]` of image b, shape (B, C, H, W)."""
        return self._guided.of(classes) * self._cams(classes)


def _cams(model: nn.Module, images: Tensor, layer: str | None) -> Callable[[Tensor], Tensor]:
    """From classes (B,) to Grad-CAMs (B, 1, H, W); one recorded forward pass for all of them."""
    name = chosen_layer(model, images, layer)
    with recording(model), kept_output(model, name) as kept:
        scores = checked_logits(model(leaf(model, images).clone()), len(images))
    if not kept or len(kept[0]) != len(images) or not kept[0].requires_grad:
        raise UserError(f"Expected `layer` to run once per image, but '{name}' does not.")
    features = kept[0]
    last = is_channels_last(features)

    def cams(classes: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            (slope,) = torch.autograd.grad(
                chosen_scores(scores, classes), features, retain_graph=True, materialize_grads=True
            )
        size = images.shape[2:]
        slopes = feature_map(model, name, slope, size, channels_last=last)
        if features.dim() == 3 and not slopes.any():
            raise UserError(
                f"Expected `layer` to be one whose patches bear on the logits, but behind '{name}' "
                "only the class token is read; `norm1` of the same block comes before the "
                "attention."
            )
        weights = slopes.mean((2, 3), keepdim=True)
        activations = feature_map(model, name, features.detach(), size, channels_last=last)
        cam = (weights * activations).sum(1, keepdim=True).relu()
        return F.interpolate(cam, size=size, mode="bilinear", align_corners=False).to(images)

    return cams
