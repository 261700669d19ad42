"""The module that a network from elsewhere is put into: preprocessing, logits, modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.frozen import checked_logits
from saliency_lab.inputs import Normalize, normalized

Size = tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]]


class OwnNetwork(nn.Module):
    """A network behind its own preprocessing, so that images of the data set go in as they are.

    Input: images (B, C, H, W) in [0, 1], of any size. They are resized (bilinear with
    antialiasing) to `size`, normalised as (x − mean) / std, and given to `network`, whose answer
    are logits (B, K) or an object that holds them as `logits`. Gradients are with respect to the
    images as they go in, so maps have the data set's size.

    In training mode, which it begins in, parts that `network` came with in eval mode stay in it:
    whoever made it froze them. One that came in eval mode as a whole was made ready to be asked,
    as `from_pretrained` leaves it; of that one, parts whose weights are all fixed stay so.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        size: Size | None,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise UserError("Expected `model.mean` and `model.std` both to be given, or neither")
        self.normalize: nn.Module = nn.Identity()
        if mean is not None and std is not None:
            self.normalize = _normalize(network, mean, std)
        self.network = network
        self.size = None if size is None else (size[0], size[1])
        self._kept_in_eval = _frozen_parts(network)
        # Lightning's fit leaves every module's mode as it finds it.
        self.train()

    def train(self, mode: bool = True) -> OwnNetwork:
        """Training mode, except for parts that were frozen when the network came."""
        super().train(mode)
        if mode:
            for name, module in self.network.named_modules():
                if name in self._kept_in_eval:
                    module.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return _logits(self.network(self.normalize(images)), images)


def _frozen_parts(network: nn.Module) -> frozenset[str]:
    """Names of the modules that training leaves in eval mode (see `OwnNetwork`)."""
    # By name: synchronised batch norms take the place of others.
    modules = dict(network.named_modules())
    evaluating = {name for name, module in modules.items() if not module.training}
    if len(evaluating) < len(modules):
        return frozenset(evaluating)
    # With their dropout, which has no weights of its own.
    fixed = {part for module in modules.values() if _is_fixed(module) for part in module.modules()}
    return frozenset(name for name, module in modules.items() if module in fixed)


def _is_fixed(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


# A leaf of tracing, so that a folded copy of the network can be made.
@torch.fx.wrap
def _logits(answer: object, images: Tensor) -> Tensor:
    # LeGrad has every block answer; whoever asked knows how many rows there should be.
    return checked_logits(answer, len(images), several=True)


class Graph(nn.Module):
    """An exported program: it has the mode that it was exported in, and no other."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.program(images)
        return answer

    def train(self, mode: bool = True) -> Graph:
        self.training = mode
        return self


def is_one_program(model: nn.Module) -> bool:
    """Whether part of a model is an exported program or TorchScript.

    Its modules have neither hooks nor initialisers, whatever names its weights still go by.
    """
    return any(isinstance(one, (Graph, torch.jit.ScriptModule)) for one in model.modules())


def _normalize(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    layer = normalized(network, mean, std).get_submodule("normalize")
    if not isinstance(layer, Normalize):
        raise TypeError(f"Expected a Normalize, but got {type(layer).__name__}")
    return layer
