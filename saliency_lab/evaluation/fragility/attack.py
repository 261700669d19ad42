"""Steps towards an image that looks the same and is predicted the same but has another map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.frozen import bare_copy, frozen

Attack = Literal["top_k", "centre", "random"]

# Sharp enough to stay near a ReLU, round enough to have a second derivative.
_SHARPNESS = 30.0


def smooth_copy(model: nn.Module) -> nn.Module:
    """A copy whose ReLU modules are softplus functions, which have a second derivative.

    Source: Ghorbani, Abid, Zou, "Interpretation of neural networks is fragile", 2019, section 3.
    """
    copied = bare_copy(model)
    for parent in copied.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                parent._modules[name] = nn.Softplus(beta=_SHARPNESS)
    return copied.eval()


def centre_of_mass(maps: Tensor) -> Tensor:
    """Mean row and column of each map (B, H, W), weighted by its absolute values, (B, 2).

    That of a map of zeros is the middle of the image.
    """
    sums = maps.abs().sum((1, 2), keepdim=True)
    even = torch.full_like(sums, 1 / maps[0].numel())
    weights = torch.where(sums > 0, maps.abs() / sums.clamp_min(_tiny(maps)), even)
    rows = torch.arange(maps.shape[1], device=maps.device, dtype=maps.dtype)
    columns = torch.arange(maps.shape[2], device=maps.device, dtype=maps.dtype)
    return torch.stack([weights.sum(2) @ rows, weights.sum(1) @ columns], 1)


def top_pixels(maps: Tensor, share: float) -> Tensor:
    """The share of largest pixels of each map, bool (B, H, W)."""
    flat = maps.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    chosen = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view(maps.shape)


def candidates(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    budget: float,
    steps: int,
    generator: SampleGenerator,
    share: float,
) -> Iterator[Tensor]:
    """Perturbed images from one start, each within the budget of the intact one.

    `top_k` lowers the share of the map that lies on the intact map's most important pixels,
    `centre` moves its centre of mass away from where it was, both by signs of the gradient of the
    plain gradient's map; `random` draws signs anew at every step and adds the whole budget.

    Args:
        attack: which.
        model: differentiable twice, such as `smooth_copy` gives; not used by `random`.
        images: (B, C, H, W) in [0, 1].
        targets: the explained classes, (B,).
        budget: largest change of any pixel.
        steps: how many candidates; a step is a quarter of the budget.
        generator: where the start and random signs come from.
        share: of pixels that count as most important.

    Yields:
        (B, C, H, W) in [0, 1].

    Raises:
        UserError: the model cannot be differentiated twice.

    Source: Ghorbani, Abid, Zou 2019, algorithm 1.
    """
    shape = images.shape[1:]
    if attack == "random":
        for _ in range(steps):
            yield _within(images, images + budget * _signs(generator, shape, images), budget)
        return
    intact = _map_with_graph(model, images, targets).detach()
    important, centre = top_pixels(intact, share), centre_of_mass(intact)
    noise = (2 * generator.uniform(*shape).to(images) - 1) * budget
    current = _within(images, images + noise, budget)
    for _ in range(steps):
        start = current.detach().requires_grad_()
        with torch.enable_grad(), frozen(model):
            found = _map_with_graph(model, start, targets)
            if attack == "top_k":
                shares = found / found.sum((1, 2), keepdim=True).clamp_min(_tiny(found))
                goal = -(shares * important).sum()
            else:
                goal = (centre_of_mass(found) - centre).square().sum()
            direction = _slope(goal, start)
        current = _within(images, start.detach() + budget / 4 * direction.sign(), budget)
        yield current


def _map_with_graph(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """max_k abs(∂S_c/∂I), (B, H, W), which can be differentiated once more."""
    with torch.enable_grad(), frozen(model):
        start = images if images.requires_grad else images.detach().requires_grad_()
        score = model(start.clone()).gather(1, targets[:, None]).sum()
        (slope,) = torch.autograd.grad(score, start, create_graph=True)
    return slope.abs().amax(1)


def _slope(goal: Tensor, start: Tensor) -> Tensor:
    try:
        (found,) = torch.autograd.grad(goal, start)
    except RuntimeError as error:
        raise UserError(
            "Expected `model` to be twice differentiable for evaluator.fragility.attacks=top_k or "
            f"centre, but got: {str(error).splitlines()[0]} Ask for attacks=[random] instead."
        ) from error
    return found


def _signs(generator: SampleGenerator, shape: torch.Size, images: Tensor) -> Tensor:
    return torch.where(generator.uniform(*shape) < 0.5, -1.0, 1.0).to(images)


def _within(images: Tensor, moved: Tensor, budget: float) -> Tensor:
    return moved.clamp(images - budget, images + budget).clamp(0, 1)


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
