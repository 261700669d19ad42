"""The gradient of a transformer, balanced by LibraGrad's corrections."""

from __future__ import annotations

from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import PropagationRules
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.methods.attn_lrp import transformer_rules


def libragrad(
    model: nn.Module, images: Tensor, *, generator: SampleGenerator | None = None
) -> ClassField:
    """∂S_c/∂I with some ways back pruned and others scaled (Mehri et al. 2025, "LibraGrad").

    Attention weights, the deviation that a normalisation divides by and the gate of an activation
    (GELU is x · Φ(x)) are constants; each factor of a gated unit gets half. Times the input that
    is `attn_lrp` with `attention=cp_lrp`, whose rules these are, so that it is complete but for
    the biases, as the plain gradient of a ReLU network is. As a base of SmoothGrad it gives the
    smoothed form.

    Args:
        model: any module from images to logits (B, K) made of operations with a rule.
        images: shape (B, C, H, W), in [0, 1].
        generator: not used.

    Returns:
        Signed field, unscaled (logit per unit of pixel value).

    Raises:
        UserError: the model computes something without a rule.
    """
    return GraphField(model, images, PropagationRules("libragrad", transformer_rules("cp_lrp")))
