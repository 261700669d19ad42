"""Random numbers belong to (seed, sample id), whatever else happens."""

from __future__ import annotations

import hashlib

import pytest
import torch

from saliency_lab.attribution.core.random_streams import (
    SampleGenerator,
    derived,
    restarted,
    separate,
)
from saliency_lab.errors import UserError


def by_hand(seed: int, sample_id: str) -> torch.Generator:
    """The stream of a sample as earlier results were drawn: changing it makes them others."""
    digest = hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@pytest.mark.parametrize("seed", [0, 42])
def test_streams_stay_what_they_were(seed: int) -> None:
    ids = ("test/cat/1.png", "7")
    uniform, normal = SampleGenerator(seed, ids).uniform(2, 3), SampleGenerator(seed, ids).normal(5)
    assert uniform.shape == (2, 2, 3)
    assert uniform.dtype == normal.dtype == torch.float32
    for row, sample_id in enumerate(ids):
        assert torch.equal(uniform[row], torch.rand(2, 3, generator=by_hand(seed, sample_id)))
        assert torch.equal(normal[row], torch.randn(5, generator=by_hand(seed, sample_id)))


def test_draws_follow_one_another_and_leave_the_process_alone() -> None:
    state = torch.get_rng_state()
    generator = SampleGenerator(1, ["a", "b"])
    first, second = generator.uniform(4), generator.uniform(4)
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([first, second], 1), SampleGenerator(1, ["a", "b"]).uniform(8))
    assert torch.equal(torch.get_rng_state(), state)


def test_restarted_streams_begin_anew_and_leave_the_given_one() -> None:
    images, generator = torch.zeros(2, 3, 4, 4), SampleGenerator(3, ["a", "b"])
    first = generator.uniform(4)
    assert torch.equal(restarted(generator, images).uniform(4), first)
    assert torch.equal(restarted(generator, images).uniform(4), first)
    assert not torch.equal(generator.uniform(4), first)  # it goes on from where it was
    assert torch.equal(restarted(None, images).normal(2), SampleGenerator(0, [0, 1]).normal(2))
    with pytest.raises(UserError, match=r"one stream per image \(2\), but got 1"):
        restarted(SampleGenerator(3, ["a"]), images)


def test_derived_and_separate_streams() -> None:
    generator = SampleGenerator(3, ["a", "b"])
    inner = derived(generator, 5)
    assert inner.seed == 3
    assert torch.equal(inner.uniform(2), SampleGenerator(3, ["a/5", "b/5"]).uniform(2))
    assert not torch.equal(derived(generator, 6).uniform(2), derived(generator, 5).uniform(2))
    alone = [own.uniform(2)[0] for own in separate(generator)]
    assert torch.equal(torch.stack(alone), SampleGenerator(3, ["a", "b"]).uniform(2))
