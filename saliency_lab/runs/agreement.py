"""What the processes of a run have to agree on before they divide the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import pytorch_lightning as pl
import torch

T = TypeVar("T")


def agreed(trainer: pl.Trainer, decide: Callable[[], T]) -> T:
    """What rank 0 decides, on every rank; the others wait until it has.

    Where each looked for itself, one could see files that another is about to remove or has just
    written, and they would divide the work differently.
    """
    if trainer.world_size == 1:
        return decide()
    # The process group forms here rather than in Lightning's loops, which find it there.
    trainer.strategy.setup_environment()
    decision = decide() if trainer.is_global_zero else None
    return trainer.strategy.broadcast(decision)  # type: ignore[return-value]


def gathered(trainer: pl.Trainer, mine: T) -> list[T]:
    """What every rank has, in the order of their numbers, on every rank."""
    if trainer.world_size == 1:
        return [mine]
    found: list[T | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, mine)
    return cast(list[T], found)
