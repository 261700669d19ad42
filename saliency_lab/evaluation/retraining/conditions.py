"""Which altered images networks are trained on, and where the trained ones are found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Order = Literal["remove", "keep", "mask"]
Fill = Literal["mean", "road"]

NO_FILL = "none"


@dataclass(frozen=True)
class Condition:
    """One way to alter images by their maps.

    Attributes:
        order: `remove` replaces the most important pixels (ROAR), `keep` all others (KAR), `mask`
            shows nothing but which pixels `remove` would replace.
        fill: what replaces them; `none` for a mask.
        fraction: the share of the pixels that counts as the most important.
    """

    order: Order
    fill: str
    fraction: float

    @property
    def label(self) -> str:
        """Its name in a path: `remove-mean-0.5`."""
        return f"{self.order}-{self.fill}-{self.fraction:g}"


def chosen_conditions(
    orders: Sequence[Order], fills: Sequence[Fill], fractions: Sequence[float]
) -> list[Condition]:
    """Every combination; masks have no fill and come once per fraction."""
    found = []
    for order, fraction in itertools.product(orders, fractions):
        named = (NO_FILL,) if order == "mask" else fills
        found += [Condition(order, fill, fraction) for fill in named]
    return found


@dataclass(frozen=True)
class Retrained:
    """The networks that were trained on altered images.

    Attributes:
        mean: of the intact training images per channel, uint8 values: what `mean` fills with.
        checkpoints: by view, condition and seed.
    """

    mean: tuple[int, ...]
    checkpoints: Mapping[tuple[str, Condition, int], Path]
