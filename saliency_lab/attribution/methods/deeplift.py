"""DeepLIFT with the rescale rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency_lab.attribution.core.baselines import Baseline, baseline_images
from saliency_lab.attribution.core.completeness import BaselineField
from saliency_lab.attribution.core.graph_field import GraphField
from saliency_lab.attribution.core.propagation import (
    ELEMENTWISE,
    PropagationRules,
    Rule,
    Weighted,
    no_rule,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted

# Below this difference of inputs the ratio of differences is noise, and the slope is its limit.
SMALL = 1e-6


def deeplift(
    model: nn.Module,
    images: Tensor,
    *,
    baseline: Baseline = "black",
    generator: SampleGenerator | None = None,
) -> BaselineField:
    """DeepLIFT's rescale rule (Shrikumar et al. 2017, equations 5, 9 and 10).

    Every elementwise non-linearity passes Δoutput/Δinput between the image and the baseline,
    max-pooling splits its Δoutput between the two places of the maximum, everything linear passes
    its gradient. Image and baseline go through the model in one batch of 2B.

    Args:
        model: any module from images to logits (B, K) made of layers with a rule.
        images: shape (B, C, H, W), in [0, 1].
        baseline: the reference image.
        generator: one stream per image, for the uniform baseline.

    Returns:
        Signed field in logit units that sums to S_c(I) − S_c(baseline) per image
        (`completeness.completeness_error` tells the rounding).

    Raises:
        UserError: the model computes something without a rule, such as layer norm or a product
            of two activations (gates, attention).
    """
    pairs = 2 * len(images)

    def paired(rule: Rule) -> Rule:
        def checked(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if len(args[0]) % pairs:
                found = f"{func.__name__} on a tensor whose first dimension is not the batch"
                raise no_rule(found, "deeplift")
            return rule(func, args, kwargs)

        return checked

    rules: dict[str, Rule] = dict.fromkeys(ELEMENTWISE, paired(_rescaled))
    rules["max_pool2d"] = paired(_rescaled_max_pool)
    return GraphField(
        model,
        images.detach(),
        PropagationRules("deeplift", rules),
        references=baseline_images(images, baseline, restarted(generator, images)),
        factor=lambda image, reference: image if reference is None else image - reference,
    )


def _rescaled(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x = args[0].detach().requires_grad_(True)
    value = func(x, *args[1:], **kwargs)
    (slope,) = torch.autograd.grad(value.sum(), x)
    value = value.detach()
    change = torch.sub(*x.detach().chunk(2))
    near = change.abs() < SMALL
    ratio = torch.sub(*value.chunk(2)) / torch.where(near, torch.ones_like(change), change)
    of_images = torch.where(near, slope.chunk(2)[0], ratio)
    # Nothing is asked of the baselines' half.
    return Weighted.apply(args[0], value, torch.cat([of_images, torch.zeros_like(of_images)]))


def _rescaled_max_pool(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    kwargs = {**kwargs, "return_indices": True}
    value, indices = F.max_pool2d(args[0].detach(), *args[1:], **kwargs)
    return _RescaledMaxPool.apply(args[0], value, indices)


class _RescaledMaxPool(torch.autograd.Function):
    """Multipliers of a max-pool; windows may overlap, then contributions of a place add up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(x, value, indices)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor, None, None]:
        x, value, indices = ctx.saved_tensors
        slope = arriving[0].chunk(2)[0].flatten(2)
        here, there = (half.flatten(2) for half in value.chunk(2))
        at_here, at_there = (half.flatten(2) for half in indices.chunk(2))
        image, reference = x.chunk(2)
        change = (image - reference).flatten(2)
        top = torch.maximum(here, there)
        # Δoutput belongs to the place that rose to the maximum or fell from it.
        contribution = torch.zeros_like(change)
        contribution.scatter_add_(2, at_here, slope * (top - there))
        contribution.scatter_add_(2, at_there, slope * (here - top))
        plain = torch.zeros_like(change).scatter_add_(2, at_here, slope)
        near = change.abs() < SMALL
        multiplier = torch.where(
            near, plain, contribution / torch.where(near, torch.ones_like(change), change)
        ).view_as(image)
        return torch.cat([multiplier, torch.zeros_like(multiplier)]), None, None
