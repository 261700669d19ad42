"""Which images of other classes stand beside an image in its grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saliency_lab.errors import UserError
from saliency_lab.evaluation.context import Context

# Confident images per class that rivals are drawn from.
_POOL = 50
_READ = 256


class Composition(NamedTuple):
    """The cells of one grid, row by row."""

    own: int
    """The cell of the image itself."""
    rivals: list[int]
    """Positions in the split of the others, in the order of their cells."""


def confident(logits: Tensor, labels: Tensor, confidence: float) -> Tensor:
    """Images of which the right class is predicted with at least this probability, bool (B,)."""
    probability, predicted = logits.double().softmax(1).max(1)
    return (predicted == labels.to(logits.device)) & (probability >= confidence)


def confident_pool(context: Context, confidence: float) -> list[list[int]]:
    """Per class up to 50 positions of confidently classified images of the split.

    They are looked for in an order that the run's seed decides, so that every process finds the
    same ones.
    """
    data, split = context.data, context.split
    labels = data.labels(split)
    order = np.random.default_rng([context.seed, 7]).permutation(len(labels))
    pool: list[list[int]] = [[] for _ in range(data.num_classes)]
    for start in range(0, len(order), _READ):
        rows = order[start : start + _READ]
        rows = rows[[len(pool[label]) < _POOL for label in labels[rows]]]
        if not len(rows):
            continue
        images = torch.from_numpy(data.images(split, rows)).float() / 255
        logits = context.model.logits(images)
        kept = confident(logits, torch.from_numpy(labels[rows]), confidence).tolist()
        for row, keep in zip(rows.tolist(), kept, strict=True):
            if keep and len(pool[labels[row]]) < _POOL:
                pool[labels[row]].append(row)
        if all(len(found) >= _POOL for found in pool):
            break
    return pool


def compositions(
    context: Context, ids: Sequence[str], labels: Sequence[int], pool: list[list[int]], side: int
) -> list[Composition]:
    """A grid for each image: its own cell and rivals, one from each of other classes.

    Cell, classes and rivals are drawn from the stream of the image's id.

    Raises:
        UserError: fewer than side² classes have a confidently classified image.
    """
    drawn = context.generator(ids, f"grid/{side}").uniform(2 * len(pool) + 1).double().numpy()
    found = []
    for numbers, label in zip(drawn, labels, strict=True):
        order, member = numbers[: len(pool)], numbers[len(pool) : -1]
        classes = [c for c in np.argsort(order).tolist() if c != label and pool[c]]
        if len(classes) < side**2 - 1:
            raise UserError(
                f"Expected `evaluator.grid_pointing.sides` to fit the {len(classes) + 1} classes "
                f"with images of enough confidence, but got {side} ({side**2} cells); lower "
                "evaluator.grid_pointing.confidence or the sides"
            )
        rivals = [pool[c][int(member[c] * len(pool[c]))] for c in classes[: side**2 - 1]]
        found.append(Composition(int(numbers[-1] * side**2), rivals))
    return found
