from __future__ import annotations

import hashlib

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


def test_a_split_may_have_no_image_of_a_chosen_class() -> None:
    """Such a class is trained and not tested; its label may be beyond all that the split has."""
    rows, labels = renumbered(np.array([1, 0, 0]), [8, 1])
    assert rows.tolist() == [0]
    assert labels.tolist() == [1]
    with pytest.raises(UserError, match=r"`data\.classes` .* of 3 images has none of them"):
        renumbered(np.array([1, 0, 0]), [8, 7])


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


def _ids(count: int, prefix: str = "cat") -> list[str]:
    return [f"{prefix}/{number:05d}.png" for number in range(count)]


def _slow_place(seed: tuple[int, ...], sample_id: str) -> float:
    """The documented hash, written down a second time."""
    text = "/".join(map(str, seed)) + "/" + sample_id
    value = int(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), 16)
    return (value // 2**11) / 2**53


def test_a_sample_is_held_out_by_a_hash_of_its_id() -> None:
    ids = _ids(4000)
    kept, held = held_out(np.zeros(4000, dtype=np.int64), ids, 0.2, (42, 3))
    assert sorted([*kept, *held]) == list(range(4000))
    assert held.tolist() == [i for i, one in enumerate(ids) if _slow_place((42, 3), one) < 0.2]
    # Five standard deviations of a binomial distribution.
    assert abs(len(held) / 4000 - 0.2) < 5 * (0.2 * 0.8 / 4000) ** 0.5


def test_held_out_samples_stay_so_when_others_come_and_go() -> None:
    ids = _ids(300) + _ids(300, "dog")
    labels = np.repeat([0, 1], 300)

    def held_ids(chosen: list[int]) -> set[str]:
        part = [ids[i] for i in chosen]
        return {part[i] for i in held_out(labels[chosen], part, 0.2, (42, 3))[1]}

    everything = held_ids(list(range(600)))
    for seed in range(20):
        some = sorted(np.random.default_rng(seed).permutation(600)[:200].tolist())
        assert held_ids(some) == everything & {ids[i] for i in some}


def test_other_seeds_hold_others_out() -> None:
    labels, ids = np.zeros(200, dtype=np.int64), _ids(200)
    first, second = (set(held_out(labels, ids, 0.5, (seed,))[1].tolist()) for seed in (1, 2))
    assert 20 < len(first & second) < 80


@pytest.mark.parametrize("share", [0.001, 0.2, 0.999])
def test_both_sides_have_one_of_every_class_of_two(share: float) -> None:
    for number in range(50):
        labels = np.array([0, 0, 1, 1, 1, 2])
        ids = [f"{number}/{row}" for row in range(6)]
        kept, held = held_out(labels, ids, share, (0,))
        assert set(labels[held]) >= {0, 1}
        assert set(labels[kept]) == {0, 1, 2}, "a class of one is kept"


def test_growing_from_nothing_never_takes_a_kept_sample_of_a_mixed_class() -> None:
    """Of what a classifier has trained on, nothing becomes a test image later."""
    for number in range(30):
        ids = [f"{number}/{row}" for row in range(12)]
        sizes = range(2, 13)
        sides = [held_out(np.zeros(n, dtype=np.int64), ids[:n], 0.2, (0,))[1] for n in sizes]
        for n, before, after in zip(sizes, sides[:-1], sides[1:], strict=False):
            if any(_slow_place((0,), one) >= 0.2 for one in ids[:n]):
                assert set(after) & set(range(n)) <= set(before)


def test_nothing_is_held_out_of_a_zero_share() -> None:
    kept, held = held_out(np.repeat(np.arange(2), 5), _ids(10), 0.0, (42,))
    assert len(held) == 0
    assert kept.tolist() == list(range(10))


def test_one_class_is_none() -> None:
    with pytest.raises(UserError, match=r"`data\.classes` to give at least two.*'cat'"):
        class_labels(NAMES, ["cat"])
    with pytest.raises(UserError, match=r"`data\.root` to give at least two.*'cat'"):
        class_labels(["cat"], None)


def test_shuffled_labels_are_the_same_labels_in_a_seeded_order_that_knows_nothing_of_them() -> None:
    labels = np.repeat(np.arange(4), 500)
    found = shuffled(labels, (42, 3))
    assert np.array_equal(np.bincount(found), np.bincount(labels))
    assert np.array_equal(found, shuffled(labels, (42, 3)))
    assert not np.array_equal(found, shuffled(labels, (43, 3)))
    assert float((found == labels).mean()) == pytest.approx(0.25, abs=0.04)
