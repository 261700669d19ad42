"""The plain gradient of a logit with respect to the pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField, input_gradients_only
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.frozen import checked_logits, frozen, placed_images


class GradientField:
    """∂S_c/∂I of one batch: the forward is done once, every class costs one input-only backward.

    The graph lives as long as this object; nothing else holds it.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._input = placed_images(model, images).clone().detach().requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):
            # A clone, because a model may begin with an in-place operation, which a leaf forbids.
            self._output = checked_logits(model(self._input.clone()), len(images))
        self._place = (images.device, images.dtype)
        self.logits = self._output.detach().to(images.device)

    def of(self, classes: Tensor) -> Tensor:
        """∂S_c/∂I for c = classes[b], shape (B, C, H, W), signed; see `ClassField.of`."""
        with torch.inference_mode(False), torch.no_grad():
            classes = classes.to(self._output.device)
            one_hot = torch.zeros_like(self._output).scatter_(1, classes[:, None], 1)
            if not self._output.requires_grad:  # the logits do not depend on the pixels at all
                return torch.zeros_like(self._input).to(*self._place)
            (field,) = torch.autograd.grad(
                self._output, self._input, one_hot, retain_graph=True, materialize_grads=True
            )
        return field.to(*self._place)


@input_gradients_only
def gradient(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """The signed field g_c = ∂S_c/∂I of the logits S taken before softmax.

    One forward now, one input-only backward per call of `.of`. The model computes in eval mode
    with frozen parameters and is left as it was: mode, `requires_grad`, `.grad`, buffers.

    Args:
        model: from images (B, C, H, W) to logits (B, K); need not be in eval mode.
        images: floating, pixels in [0, 1], any device and floating dtype: they are moved to the
            model's, and the field comes back on the device and in the dtype of the images.
        generator: unused; nothing is random.

    Returns:
        The class field; its maps are signed, unscaled (logit per unit of pixel value).

    Raises:
        UserError: images that are not floating (B, C, H, W), or an answer that is not (B, K).

    Source: Simonyan, Vedaldi, Zisserman, "Deep inside convolutional networks", 2014, section 3.
    """
    return GradientField(model, images)
