from __future__ import annotations

import numpy as np
import pytest

from saliency_lab.data.selection import balanced, class_labels, held_out, renumbered, shuffled
from saliency_lab.errors import UserError

NAMES = ("bird", "cat", "dog")


def test_classes_keep_the_given_order() -> None:
    chosen = class_labels(NAMES, ["dog", "bird"])
    rows, labels = renumbered(np.array([0, 1, 2, 2, 0]), chosen)
    assert rows.tolist() == [0, 2, 3, 4]
    assert labels.tolist() == [1, 0, 0, 1]


def test_unknown_class_is_named_with_the_options_and_a_guess() -> None:
    with pytest.raises(UserError, match=r"`data.classes`.*bird, cat, dog.*'cet'.*'cat'"):
        class_labels(NAMES, ["cet"])


@pytest.mark.parametrize("classes", [[], ["cat", "cat"]])
def test_no_or_repeated_classes_are_refused(classes: list[str]) -> None:
    with pytest.raises(UserError, match="different class names"):
        class_labels(NAMES, classes)


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ((10, 10, 10), 9, [3, 3, 3]),
        ((10, 10, 10), 10, [4, 3, 3]),
        ((2, 10, 10), 12, [2, 5, 5]),
        ((1, 2, 3), 100, [1, 2, 3]),
        ((5, 5, 5), 2, [1, 1, 0]),
    ],
)
def test_limit_is_balanced(sizes: tuple[int, ...], count: int, expected: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = balanced(labels, count, (42, 0))
    found = np.bincount(labels[rows], minlength=3)
    assert sorted(found.tolist(), reverse=True) == sorted(expected, reverse=True)
    assert np.array_equal(rows, np.unique(rows))


def test_limit_is_seeded_and_a_larger_one_contains_a_smaller() -> None:
    labels = np.repeat(np.arange(3), 20)
    small, large = balanced(labels, 9, (42, 0)), balanced(labels, 30, (42, 0))
    assert np.array_equal(small, balanced(labels, 9, (42, 0)))
    assert not np.array_equal(small, balanced(labels, 9, (43, 0)))
    assert set(small) < set(large)


def test_held_out_share_is_taken_from_every_class() -> None:
    labels = np.repeat(np.arange(3), (10, 20, 1))
    kept, held = held_out(labels, 0.2, (42,))
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 4, 0]
    assert sorted([*kept, *held]) == list(range(31))


def test_nothing_is_held_out_of_a_zero_share() -> None:
    kept, held = held_out(np.repeat(np.arange(2), 5), 0.0, (42,))
    assert len(held) == 0
    assert kept.tolist() == list(range(10))


def test_shuffled_labels_are_the_same_labels_in_a_seeded_order_that_knows_nothing_of_them() -> None:
    labels = np.repeat(np.arange(4), 500)
    found = shuffled(labels, (42, 3))
    assert np.array_equal(np.bincount(found), np.bincount(labels))
    assert np.array_equal(found, shuffled(labels, (42, 3)))
    assert not np.array_equal(found, shuffled(labels, (43, 3)))
    assert float((found == labels).mean()) == pytest.approx(0.25, abs=0.04)
