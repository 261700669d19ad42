"""Which samples of a split take part: classes, limit, held-out shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saliency_lab.errors import UserError, unknown_choice

Rows = NDArray[np.int64]


def class_labels(class_names: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """Labels of the chosen classes in the chosen order; all of them for None.

    Raises:
        UserError: a class is unknown or named twice, or none is named.
    """
    if classes is None:
        return list(range(len(class_names)))
    for name in classes:
        if name not in class_names:
            raise unknown_choice("data.classes", name, class_names)
    if not classes or len(set(classes)) != len(classes):
        listed = ",".join(classes)
        raise UserError(f"Expected `data.classes` to be different class names, but got [{listed}].")
    return [list(class_names).index(name) for name in classes]


def renumbered(labels: Rows, chosen: Sequence[int]) -> tuple[Rows, Rows]:
    """Rows of the chosen labels, in the source's order, and their places in `chosen`."""
    places = np.full(int(labels.max(initial=-1)) + 1 + len(chosen), -1, dtype=np.int64)
    places[list(chosen)] = np.arange(len(chosen))
    rows = np.flatnonzero(places[labels] >= 0).astype(np.int64)
    return rows, places[labels[rows]]


def balanced(labels: Rows, count: int, seed: Sequence[int]) -> Rows:
    """`count` rows (all, if there are fewer), as equal over the classes as they allow, ascending.

    A larger `count` with the same seed keeps the rows of a smaller one, class by class.
    """
    order = _shuffled_by_class(labels, seed)
    sizes = [len(rows) for rows in order]
    shares = _shares(sizes, min(count, len(labels)))
    return np.sort(
        np.concatenate([rows[:share] for rows, share in zip(order, shares, strict=True)])
    )


def held_out(labels: Rows, share: float, seed: Sequence[int]) -> tuple[Rows, Rows]:
    """Rows to keep and rows to hold out: of every class its rounded share, never all of it."""
    order = _shuffled_by_class(labels, seed)
    held = [rows[: min(round(len(rows) * share), len(rows) - 1)] for rows in order]
    out = np.sort(np.concatenate(held)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels), dtype=np.int64), out), out


def shuffled(labels: Rows, seed: Sequence[int]) -> Rows:
    """The same labels, dealt out at random: how often each occurs stays as it is."""
    return np.random.default_rng(seed).permutation(labels)


def _shuffled_by_class(labels: Rows, seed: Sequence[int]) -> list[Rows]:
    present = np.unique(labels)
    return [
        np.random.default_rng([*seed, int(label)]).permutation(np.flatnonzero(labels == label))
        for label in present
    ]


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    shares = [0] * len(sizes)
    while count > 0:
        still = [place for place, size in enumerate(sizes) if shares[place] < size]
        each = max(count // len(still), 1)
        for place in still:
            given = min(each, sizes[place] - shares[place], count)
            shares[place] += given
            count -= given
            if count == 0:
                break
    return shares
