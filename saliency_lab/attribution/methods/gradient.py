"""The plain gradient of a logit with respect to the pixels."""

from __future__ import annotations

from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField, input_gradients_only
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.random_streams import SampleGenerator


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
    return GraphField(model, images)
