"""Which samples of a split take part: classes, limit, held-out shares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saliency_lab.errors import UserError, unknown_choice

Rows = NDArray[np.int64]


def class_labels(class_names: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """Labels of the chosen classes in the chosen order; all of them for None.

    Raises:
        UserError: a class is unknown or named twice, or there are fewer than two.
    """
    if classes is None:
        _require_two("data.root", class_names)
        return list(range(len(class_names)))
    for name in classes:
        if name not in class_names:
            raise unknown_choice("data.classes", name, class_names)
    if not classes or len(set(classes)) != len(classes):
        listed = ",".join(classes)
        raise UserError(f"Expected `data.classes` to be different class names, but got [{listed}].")
    _require_two("data.classes", classes)
    return [list(class_names).index(name) for name in classes]


def _require_two(key: str, names: Sequence[str]) -> None:
    if len(names) == 1:
        raise UserError(
            f"Expected `{key}` to give at least two classes, but got '{names[0]}' alone."
        )


def renumbered(labels: Rows, chosen: Sequence[int]) -> tuple[Rows, Rows]:
    """Rows of the chosen labels, in the source's order, and their places in `chosen`.

    A chosen label may have no row: such a class is trained and not tested, or the other way round.

    Raises:
        UserError: no chosen label has any, though others have.
    """
    largest = max(int(labels.max(initial=-1)), *chosen, -1)
    places = np.full(largest + 1, -1, dtype=np.int64)
    places[list(chosen)] = np.arange(len(chosen))
    rows = np.flatnonzero(places[labels] >= 0).astype(np.int64)
    if len(labels) and not len(rows):
        raise UserError(
            "Expected `data.classes` to name a class with images in each split, but one split of "
            f"{len(labels):,} images has none of them."
        )
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


def held_out(
    labels: Rows, ids: Sequence[str], share: float, seed: Sequence[int]
) -> tuple[Rows, Rows]:
    """Rows to keep and rows to hold out: of every class about the share, each row by its id alone.

    A row is held out where a hash of (seed, id) is below the share, whatever other rows there are.
    So a sample that comes or goes changes the side of no other, with one exception: a class of two
    or more rows has at least one on either side (for a share above 0), and where chance gives it
    none, the row nearest to the share is moved. Rows that are added later may then take its place.
    A held-out row goes back to the kept ones by that; a kept row is held out by it only in a class
    whose rows had all been below the share. A class of one row keeps it.

    Args:
        labels: int64 (N,).
        ids: N stable ids.
        share: in [0, 1).
        seed: whole numbers; others give another choice.
    """
    places = np.array([_place(seed, sample_id) for sample_id in ids], dtype=np.float64)
    out = places < share
    for label in np.unique(labels) if share > 0 else ():
        rows = np.flatnonzero(labels == label)
        if not out[rows].any():
            out[rows[places[rows].argmin()]] = True
        if out[rows].all():
            out[rows[places[rows].argmax()]] = False
    return np.flatnonzero(~out).astype(np.int64), np.flatnonzero(out).astype(np.int64)


def _place(seed: Sequence[int], sample_id: str) -> float:
    """A number in [0, 1) that depends on its arguments alone, on any machine."""
    text = "/".join([*(str(number) for number in seed), sample_id])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    # 53 bits: what a float holds exactly.
    return (int.from_bytes(digest) >> 11) / 2**53


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
