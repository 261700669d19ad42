"""Layer-wise relevance propagation with the ε rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import (
    THROUGH_ZERO,
    PropagationRules,
    Rule,
    Weighted,
    plain,
    proportional,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator

def lrp_epsilon(
    model: nn.Module,
    images: Tensor,
    *,
    epsilon: Annotated[float, Gt(0)] = 0.25,
    scale: Literal["rms", "absolute"] = "rms",
    generator: SampleGenerator | None = None,
) -> ClassField:
    """LRP-ε: R_j = Σ_k a_j w_jk / (z_k + ε sign z_k) · R_k from the logit down to the pixels.

    Bach et al. 2015, equation 58; the ε relative to a layer's activity is Montavon et al. 2019,
    section 10.2. Convolutions and linear layers, each with the batch norm behind it as one affine
    map, follow the rule; activations and sums pass relevance on in proportion; max-pooling gives
    it to the maximum. Biases keep their share, so relevance is not conserved exactly. It is
    computed as input × a gradient in which the output of each such layer passes
    z/(z + ε sign z); with ε → 0 a ReLU network's map therefore becomes gradient × input (Ancona
    et al. 2018, proposition 2), which is why the default ε is not tiny.

    Args:
        model: any module from images to logits (B, K) made of layers with a rule.
        images: shape (B, C, H, W), in [0, 1]; a black pixel gets no relevance.
        epsilon: ε, in units of `scale`.
        scale: `rms`, the root mean square of the layer's output for that image; or `absolute`.
        generator: not used.

    Returns:
        Signed field in logit units.

    Raises:
        UserError: the model computes something without a rule, such as layer norm or a product
            of two activations (gates, attention).
    """
    layer = _stabilised(epsilon, scale == "rms")
    rules: dict[str, Rule] = dict.fromkeys(("conv2d", "linear", "batch_norm"), layer)
    rules |= dict.fromkeys(("relu", "max_pool2d"), plain)
    rules |= dict.fromkeys(THROUGH_ZERO, proportional)
    return GraphField(
        model,
        images,
        PropagationRules("lrp_epsilon", rules),
        factor=lambda image, _: image,
        conserves=True,
    )


def _stabilised(epsilon: float, relative: bool) -> Rule:
    def rule(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if func.__name__ == "batch_norm":
            # A layer and the batch norm behind it are one affine map, with one ε, so that folding
            # one into the other changes nothing.
            args = (getattr(args[0], "before_rule", args[0]), *args[1:])
        output = func(*args, **kwargs)
        z = output.detach()
        size = torch.full_like(z[:1], epsilon)
        if relative:
            # Per image, so that the batch that an image is in makes no difference.
            rms = z.flatten(1).square().mean(1).sqrt()
            size = epsilon * rms.view(-1, *[1] * (z.dim() - 1)).clamp_min(torch.finfo(z.dtype).tiny)
        ruled = Weighted.apply(output, z, z / (z + torch.where(z < 0, -size, size)))
        ruled.before_rule = output
        return ruled

    return rule
