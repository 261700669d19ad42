"""Layer-wise relevance propagation: the ε rule by itself, and other rules and their composites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from saliency_lab.attribution.core.completeness import BaselineField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import (
    THROUGH_ZERO,
    PropagationRules,
    Rule,
    Weighted,
    plain,
    proportional,
    remember,
    remembered,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.relevance import (
    RelevanceRule,
    Stabilised,
    alpha_beta_rule,
    box_rule,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    w_square_rule,
)
from saliency_lab.attribution.core.relevance_rules import input_bounds, relevance_rules
from saliency_lab.errors import UserError

RuleName = Literal["epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "flat", "z_box"]
CompositeName = Literal[
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
]


class Composite(NamedTuple):
    """Which layers follow which rule; what no rule is given for follows that of its kind."""

    convolution: RuleName | Literal["alpha2_beta1"]
    linear: RuleName | Literal["alpha2_beta1"]
    first: RuleName | None = None


COMPOSITES: dict[str, Composite] = {
    "epsilon_plus": Composite("z_plus", "epsilon"),
    "epsilon_plus_flat": Composite("z_plus", "epsilon", "flat"),
    "epsilon_alpha2_beta1": Composite("alpha2_beta1", "epsilon"),
    "epsilon_alpha2_beta1_flat": Composite("alpha2_beta1", "epsilon", "flat"),
    "epsilon_gamma_box": Composite("gamma", "epsilon", "z_box"),
}


def lrp(
    model: nn.Module,
    images: Tensor,
    *,
    rule: RuleName = "epsilon",
    composite: CompositeName | None = None,
    epsilon: Annotated[float, Gt(0)] = 0.25,
    scale: Literal["rms", "absolute"] = "rms",
    gamma: Annotated[float, Ge(0)] = 0.25,
    alpha: Annotated[float, Ge(1)] = 2.0,
    generator: SampleGenerator | None = None,
) -> BaselineField:
    """Relevance from the logit down to the pixels, by one rule or a composite of rules.

    The ε rule alone is `lrp_epsilon`. All others hand on relevance itself: convolutions and
    linear layers, batch norms merged, follow a rule of `core.relevance`, the rest those of
    `core.relevance_rules`, as Anders et al. 2021 (zennit) and Montavon et al. 2019, section
    10.2, lay them out. Composites are zennit's: linear layers follow ε, convolutions z⁺
    (`epsilon_plus`), α = 2, β = 1 (`epsilon_alpha2_beta1`) or γ (`epsilon_gamma_box`), the first
    layer flat (`…_flat`) or z^B (`…_box`). zennit's ε is `epsilon=1e-6 scale=absolute`.

    Args:
        model: any module from images to logits (B, K) made of layers with a rule.
        images: shape (B, C, H, W), in [0, 1].
        rule: of every convolution and linear layer; z_box takes the first layer's inputs of a
            black and a white image as bounds, and is for a first layer: others follow ε.
        composite: rules by kind of layer, in place of one rule.
        epsilon, scale: of the ε rule; see `lrp_epsilon`.
        gamma: γ of the γ rule.
        alpha: α of the αβ rule; β is α − 1.
        generator: not used.

    Returns:
        Signed field in logit units; biases keep their share, so it does not sum to the logit
        exactly.

    Raises:
        UserError: the model computes something without a rule, or both a rule and a composite.
    """
    if composite is None and rule == "epsilon":
        return lrp_epsilon(model, images, epsilon=epsilon, scale=scale)
    if composite is not None and rule != "epsilon":
        raise UserError(
            f"Expected one of `method.rule` and `method.composite`, but got {rule} and {composite}."
        )
    chosen = COMPOSITES[composite] if composite else _everywhere(rule)
    beside: dict[str, RelevanceRule] = {
        "epsilon": epsilon_rule(_denominator(epsilon, scale == "rms")),
        "gamma": gamma_rule(gamma),
        "alpha_beta": alpha_beta_rule(alpha, alpha - 1),
        "alpha2_beta1": alpha_beta_rule(2, 1),
        "z_plus": alpha_beta_rule(1, 0),
        "w_square": w_square_rule,
        "flat": flat_rule,
    }
    if "z_box" in chosen:
        beside["z_box"] = box_rule(*input_bounds(model, images))

    def layer_rule(first: bool, convolution: bool) -> RelevanceRule:
        kind = chosen.convolution if convolution else chosen.linear
        return beside[chosen.first or kind if first else kind]

    return GraphField(
        model, images, relevance_rules("lrp", layer_rule), conserves=True, relevance=True
    )


def _everywhere(rule: RuleName) -> Composite:
    if rule == "z_box":
        return Composite("epsilon", "epsilon", "z_box")
    return Composite(rule, rule)


def _denominator(epsilon: float, relative: bool) -> Stabilised:
    def stabilised(z: Tensor) -> Tensor:
        size = _epsilon_of(z, epsilon, relative)
        return z + torch.where(z < 0, -size, size)

    return stabilised


def lrp_epsilon(
    model: nn.Module,
    images: Tensor,
    *,
    epsilon: Annotated[float, Gt(0)] = 0.25,
    scale: Literal["rms", "absolute"] = "rms",
    generator: SampleGenerator | None = None,
) -> BaselineField:
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
            before = remembered(args[0])
            args = (args[0] if before is None else before, *args[1:])
        output = func(*args, **kwargs)
        z = output.detach()
        size = _epsilon_of(z, epsilon, relative)
        ruled: Tensor = Weighted.apply(output, z, z / (z + torch.where(z < 0, -size, size)))
        remember(ruled, output)
        return ruled

    return rule


def _epsilon_of(z: Tensor, epsilon: float, relative: bool) -> Tensor:
    """ε for a layer's output (B, …): the same for all of it, or relative to each image's rms."""
    if not relative:
        return torch.full_like(z[:1], epsilon)
    # Per image, so that the batch that an image is in makes no difference.
    rms = z.flatten(1).square().mean(1).sqrt()
    # After the product: where denormals are flushed, a layer of zeros would divide 0 by 0.
    return (epsilon * rms.view(-1, *[1] * (z.dim() - 1))).clamp_min(torch.finfo(z.dtype).tiny)
