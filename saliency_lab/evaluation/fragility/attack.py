"""Steps towards an image that looks the same and is predicted the same but has another map."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.errors import UserError
from saliency_lab.frozen import bare_copy, frozen

log = logging.getLogger(__name__)

Attack = Literal["top_k", "centre", "random"]

# Sharp enough to stay near a ReLU, round enough to have a second derivative.
_SHARPNESS = 30.0


def smooth_copy(model: nn.Module) -> nn.Module:
    """A copy that computes softplus functions for ReLUs, which have a second derivative.

    ReLUs are met where they are called, so it makes no difference whether a module, a function or
    a method is one, in place or not. So are ReLUs with a ceiling and leaky ones. Other bends, such
    as `clamp` and `maximum`, stay.

    Source: Ghorbani, Abid, Zou, "Interpretation of neural networks is fragile", 2019, section 3.
    """
    return _Smoothed(bare_copy(model)).eval()


class _Smoothed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        with _SmoothRules():
            return self.model(images)


class _SmoothRules(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # An exported network calls "relu_.default".
        name = getattr(func, "__name__", "").partition(".")[0]
        if name.removesuffix("_") not in _SMOOTH:
            return func(*args, **(kwargs or {}))
        return _smoothed(name, *args, **(kwargs or {}))


def _smoothed(
    name: str, input: Tensor, *settings: Any, inplace: bool = False, **named: Any
) -> Tensor:
    smooth = _SMOOTH[name.removesuffix("_")]
    # The one setting of these functions that is true or false is `inplace`, also by its place.
    numbers = [one for one in settings if not isinstance(one, bool)]
    if not (inplace or name.endswith("_") or True in settings[len(numbers) :]):
        return smooth(input, *numbers, **named)
    # A copy, because what is overwritten is needed on the way back.
    return input.copy_(smooth(input.clone(), *numbers, **named))


def _relu(x: Tensor) -> Tensor:
    return F.softplus(x, beta=_SHARPNESS)


def _hardtanh(x: Tensor, min_val: float = -1, max_val: float = 1) -> Tensor:
    return min_val + _relu(x - min_val) - _relu(x - max_val)


def _leaky_relu(x: Tensor, negative_slope: float | Tensor = 0.01) -> Tensor:
    return negative_slope * x + (1 - negative_slope) * _relu(x)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return _leaky_relu(x, weight.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else weight)


_SMOOTH: dict[str, Callable[..., Tensor]] = {
    "relu": _relu,
    "relu6": partial(_hardtanh, min_val=0, max_val=6),
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
}


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
    plain gradient's map; `random` draws signs anew at every step and adds the whole budget. Where
    that gradient is 0 in every pixel at every step, the attack has no force; this is logged.

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
    directed = torch.zeros(len(images), dtype=torch.bool, device=images.device)
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
        directed |= direction.flatten(1).any(1)
        current = _within(images, start.detach() + budget / 4 * direction.sign(), budget)
        yield current
    if not bool(directed.all()):
        log.warning(
            "evaluator.fragility: attack %s has no direction for %d of %d images, whose gradient "
            "does not change with the pixels, and tries nothing but where it starts",
            attack,
            int((~directed).sum()),
            len(images),
        )


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
