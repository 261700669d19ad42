from __future__ import annotations

import hashlib

import numpy as np
import pytest

from saliency_lab.data import drawing
from saliency_lab.data.drawing import drawn
from saliency_lab.data.shapes import Shapes

SIDE = 32
CLASSES = (
    "arrow", "bowtie", "circle", "crescent", "cross", "heart", "spiral", "square", "star",
    "triangle",
)  # fmt: skip


def test_the_classes_and_the_size() -> None:
    assert _shapes().class_names == CLASSES
    assert _shapes().input_shape == (3, SIDE, SIDE)


def _shapes(**settings: object) -> Shapes:
    return Shapes(**{"train_images": 60, "test_images": 30, **settings})


def test_classes_are_balanced_and_splits_differ() -> None:
    module = _shapes()
    module.prepare_data()
    assert module.sizes == {"train": 60, "test": 30}
    assert np.bincount(module.labels("train")).tolist() == [6] * 10
    assert module.ids("test")[17] == "shapes/test/17"
    assert not np.array_equal(module.images("train", range(30)), module.images("test", range(30)))


def test_the_runs_seed_does_not_change_the_images_but_their_own_does() -> None:
    first = _shapes().images("test", range(30))
    assert np.array_equal(first, _shapes(seed=7).images("test", range(30)))
    assert not np.array_equal(first, _shapes(images_seed=1).images("test", range(30)))
    assert np.array_equal(first, np.stack([drawn(n % 10, (0, 1, n))[0] for n in range(30)]))


def test_pictures_of_a_seed_stay_as_they_are() -> None:
    # Drawings made on another day must be comparable; change `DRAWING` together with these.
    image, mask = drawn(CLASSES.index("star"), (0, 0, 8))
    assert image.shape == (3, SIDE, SIDE)
    assert mask.shape == (SIDE, SIDE)
    assert (image.dtype, mask.dtype) == (np.uint8, np.bool)
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == "bfbe0c985ed18fd9"
    assert hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16] == "4bab6144d60599ba"


def test_masks_go_with_the_selected_images() -> None:
    whole, chosen = _shapes(), _shapes(classes=["star", "circle"], limit=4)
    places = [int(name.split("/")[-1]) for name in chosen.ids("test")]
    assert np.array_equal(chosen.masks("test", range(4)), whole.masks("test", places))
    assert np.array_equal(chosen.images("test", range(4)), whole.images("test", places))
    assert chosen.masks("test", []).shape == (0, SIDE, SIDE)


def test_the_mask_is_where_the_outline_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an outline the picture differs exactly there (edges are covered by halves)."""
    real = drawing._outline

    def invisible(rng: np.random.Generator, label: int) -> np.ndarray:
        return real(rng, label) * 0

    for number in range(40):
        with_shape, mask = drawn(number % 10, (5, number))
        with monkeypatch.context() as patch:
            patch.setattr(drawing, "_outline", invisible)
            without, empty = drawn(number % 10, (5, number))
        difference = np.abs(with_shape.astype(int) - without.astype(int)).max(axis=0)
        assert not empty.any()
        assert 40 <= mask.sum() <= SIDE * SIDE / 3
        # Clutter of nearly the outline's colour may lie below it: almost everywhere, not always.
        assert (difference[mask] > 25).mean() > 0.9
        untouched = difference == 0
        assert not (mask & untouched).mean() > 0.01
        assert untouched.mean() > 0.5


def test_occluders_hide_the_outline_and_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = drawing._clutter
    calls: list[int] = []

    def half_hidden(
        rng: np.random.Generator, count: int, length: float
    ) -> tuple[np.ndarray, np.ndarray]:
        calls.append(count)
        colours, cover = real(rng, count, length)
        if len(calls) % 2 == 0:  # The second layer lies in front.
            colours, cover = np.zeros_like(colours), np.zeros_like(cover)
            cover[:, : SIDE // 2] = 1
        return colours, cover

    for number in range(10):
        plain = drawn(number, (9, number))[1]
        with monkeypatch.context() as patch:
            patch.setattr(drawing, "_clutter", half_hidden)
            image, mask = drawn(number, (9, number))
        assert not mask[:, : SIDE // 2].any()
        assert image[:, :, : SIDE // 2].max() < 64  # Black, but for the noise.
        assert mask[:, SIDE // 2 :].sum() >= plain[:, SIDE // 2 :].sum() > 0


def test_neither_colour_nor_a_linear_classifier_solves_it() -> None:
    module = _shapes(train_images=4000, test_images=500)
    train, test = (module.images(s, range(n)) / 255.0 for s, n in (("train", 4000), ("test", 500)))
    labels = {split: module.labels(split) for split in ("train", "test")}

    def accuracy(seen: np.ndarray, unseen: np.ndarray, damping: float) -> float:
        """Ridge regression to one-hot labels, closed form."""
        mean = seen.mean(axis=0)
        seen, unseen = seen - mean, unseen - mean
        gram = seen.T @ seen + damping * np.eye(seen.shape[1])
        weights = np.linalg.solve(gram, seen.T @ (np.eye(10)[labels["train"]] - 0.1))
        return float(((unseen @ weights).argmax(axis=1) == labels["test"]).mean())

    colours = [np.concatenate([part.mean(axis=(2, 3)), part.std(axis=(2, 3))], 1)
               for part in (train, test)]  # fmt: skip
    assert accuracy(*colours, 1e-3) < 0.35
    flat = [part.reshape(len(part), -1) for part in (train, test)]
    assert accuracy(*flat, 1000.0) < 0.48
