"""How far a copy's input gradients agree with those of the model that it is a copy of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saliency_lab.frozen import checked_logits, frozen, intact_logits, placed_images

# Images of the first batch whose gradients are compared.
_COMPARED = 8
# Of the largest logit: more than rounding in a batch of another size makes, in bfloat16, too.
_ROUNDING = 0.02


def unsteadiness(model: nn.Module, sample: Tensor, logits: Tensor) -> str | None:
    """Why an image's logits are not its own: words for a warning, or None.

    Args:
        model: as it is given.
        sample: images (B, C, H, W).
        logits: (B, K), what the model gives for the sample.
    """

    def differ(one: Tensor, other: Tensor) -> bool:
        return bool((one - other).abs().max() > _ROUNDING * float(other.abs().max()))

    if len(sample) < 2:
        return None
    alone = intact_logits(model, sample[:1])
    if not differ(alone, logits[:1]):
        return None
    if differ(intact_logits(model, sample[:1]), alone):
        return "change from one call to the next"
    return "depend on which other images are in its batch"


def gradient_distance(copy: nn.Module, model: nn.Module, sample: Tensor) -> float:
    """‖copy's gradient − model's‖ over two images with a little noise, by the larger norm.

    Without the noise, rounding would decide which of equal pixels a max-pool takes.

    Args:
        copy: in full precision, with the model's logits.
        model: what it is a copy of.
        sample: images (B, C, H, W) in [0, 1] on the model's device.

    Returns:
        In [0, 2]: 0 for equal gradients, 1 where one of them is 0.
    """
    draw = torch.Generator().manual_seed(0)
    images = sample[:2]
    noise = torch.rand(images.shape, generator=draw).to(images)
    images = 0.9 * images + 0.1 * noise
    mine, its = (target_gradient(one, images).double() for one in (copy, model))
    size = float(max(mine.norm(), its.norm()))
    return float((mine - its).norm()) / size if size else 0.0


def sign_agreement(model: nn.Module, exact: nn.Module, sample: Tensor) -> float:
    """How often the gradient of the predicted logit has the sign that it has in full precision.

    Args:
        model: the copy in low precision.
        exact: the model that it is a copy of, in full precision.
        sample: images (B, C, H, W); a few of them are compared.

    Returns:
        The share of pixels and channels with equal signs, in [0, 1].
    """
    images = sample[:_COMPARED]
    low, high = (target_gradient(one, images) for one in (model, exact))
    return float((low.sign() == high.sign()).float().mean())


def target_gradient(model: nn.Module, images: Tensor) -> Tensor:
    """Gradient of each image's highest logit, (B, C, H, W) float32; 0 where nothing is recorded."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        start = placed_images(model, images).detach().clone().requires_grad_(True)
        best = checked_logits(model(start.clone()), len(images)).amax(1).sum()
        if not best.requires_grad:  # a model that is run under no_grad by itself
            return torch.zeros_like(start, dtype=torch.float32)
        (slope,) = torch.autograd.grad(best, start, materialize_grads=True)
    return slope.float()
