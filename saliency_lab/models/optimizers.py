"""Optimizers and learning-rate schedules with the ranges of their settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Rate = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]


def adamw(
    params: Iterable[Parameter],
    *,
    lr: Rate = 1e-3,
    weight_decay: Annotated[float, Ge(0)] = 0.01,
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999),
) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) with torch's defaults, the reference's choice."""
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)


def sgd(
    params: Iterable[Parameter],
    *,
    lr: Rate = 0.1,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    weight_decay: Annotated[float, Ge(0)] = 5e-4,
    nesterov: bool = True,
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )


def constant(optimizer: Optimizer, *, max_epochs: int) -> LambdaLR:
    """The configured rate throughout."""
    return LambdaLR(optimizer, lambda epoch: 1.0)


def cosine(
    optimizer: Optimizer,
    *,
    max_epochs: int,
    warmup_epochs: Annotated[int, Ge(0)] = 0,
    final: Share = 0.0,
) -> LambdaLR:
    """Linear warm-up, then half a cosine down to `final` times the configured rate, per epoch."""

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return (epoch + 1) / (warmup_epochs + 1)
        progress = (epoch - warmup_epochs) / max(1, max_epochs - warmup_epochs)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def step(
    optimizer: Optimizer,
    *,
    max_epochs: int,
    every: Annotated[int, Gt(0)] = 30,
    factor: Share = 0.1,
) -> LambdaLR:
    """The rate multiplied by `factor` every so many epochs."""
    return LambdaLR(optimizer, lambda epoch: factor ** (epoch // every))
