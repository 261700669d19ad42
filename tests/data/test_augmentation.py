from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from saliency_lab.data.augmentation import _mixed, augmented

IMAGES = torch.arange(64 * 3 * 16 * 16).remainder(251).to(torch.uint8).view(64, 3, 16, 16)
INDEX = torch.arange(64)


def test_every_image_is_a_flipped_or_plain_crop_of_its_padded_self() -> None:
    out = augmented(IMAGES, INDEX, seed=42, epoch=0)
    padded = F.pad(IMAGES, (2, 2, 2, 2))
    places = set()
    for image, result in zip(padded, out, strict=True):
        found = {
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(_crop(image, top, left, flip), result)
        }
        assert found
        places |= found
    # 64 draws out of 50: most places are met, and both directions.
    assert len(places) > 25
    assert {flip for *_, flip in places} == {False, True}
    assert {top for top, *_ in places} == {left for _, left, _ in places} == set(range(5))


def _crop(padded: torch.Tensor, top: int, left: int, flip: bool) -> torch.Tensor:
    crop = padded[:, top : top + 16, left : left + 16]
    return crop.flip(-1) if flip else crop


def test_batch_order_and_size_change_nothing() -> None:
    whole = augmented(IMAGES, INDEX, seed=42, epoch=5)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for part in order.split(7):
        assert torch.equal(augmented(IMAGES[part], part, seed=42, epoch=5), whole[part])


def test_seed_and_epoch_change_it() -> None:
    first = augmented(IMAGES, INDEX, seed=42, epoch=0)
    assert not torch.equal(first, augmented(IMAGES, INDEX, seed=42, epoch=1))
    assert not torch.equal(first, augmented(IMAGES, INDEX, seed=43, epoch=0))


def test_mixing_is_splitmix64() -> None:
    # Published first outputs of SplitMix64 for the state 1234567 (the top bit is dropped here).
    expected = [6457827717110365317, 3203168211198807973]
    step = 0x9E3779B97F4A7C15
    states = [1234567, (1234567 + step) % 2**64]
    signed = torch.from_numpy(np.array(states, dtype=np.uint64).view(np.int64))
    assert _mixed(signed).tolist() == [value % 2**63 for value in expected]
