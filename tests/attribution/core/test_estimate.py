"""Standard errors over rounds, against the textbook's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saliency_lab.attribution.core.estimate import Estimate, Rounds


@pytest.mark.parametrize("centred", [False, True])
def test_mean_and_error_are_the_formula_s(centred: bool) -> None:
    values = 5 + torch.randn(7, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    rounds = Rounds(values[0], centred=centred)
    # The second image has all seven rounds, the others four and two.
    many = [4, 7, 2]
    for number, value in enumerate(values):
        at = torch.tensor([image for image in range(3) if many[image] > number])
        rounds.add(at, value[at])
    assert rounds.count.tolist() == many
    for image, count in enumerate(many):
        own = values[:count, image].double().flatten(1).numpy()
        mean = own.mean(0)
        np.testing.assert_allclose(rounds.mean[image].flatten(), mean, rtol=1e-5)
        if centred:
            own, mean = own - own.mean(1, keepdims=True), mean - mean.mean()
        # Of each element the standard error as statistics calls it; squared and added up.
        squared = (own.std(0, ddof=1) ** 2 / count).sum()
        expected = np.sqrt(squared / (mean**2).sum())
        assert float(rounds.error()[image]) == pytest.approx(min(1.0, expected), rel=1e-4)


def test_what_never_changes_is_exact_and_one_round_says_nothing() -> None:
    rounds = Rounds(torch.zeros(3, 4), centred=False)
    values = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0], [1, 1, 1, 1]])
    rounds.add(torch.arange(3), values)
    assert rounds.error().tolist() == [1, 1, 1]
    rounds.add(torch.tensor([0, 1]), values[:2])
    assert rounds.error().tolist() == [0, 0, 1]


def test_what_is_not_a_number_is_not_called_exact() -> None:
    rounds = Rounds(torch.zeros(1, 2), centred=False)
    for value in (1.0, torch.nan, 3.0):
        rounds.add(torch.tensor([0]), torch.tensor([[value, 1.0]]))
    assert rounds.error().isnan().tolist() == [True]


def test_noise_alone_has_an_error_of_about_one() -> None:
    draw = torch.Generator().manual_seed(0)
    rounds = Rounds(torch.zeros(5, 1000), centred=True)
    for _ in range(8):
        rounds.add(torch.arange(5), torch.randn(5, 1000, generator=draw))
    assert (rounds.error() > 0.9).all()
    assert (rounds.error() <= 1).all()


def test_the_error_foretells_the_correlation_with_the_exact_map() -> None:
    draw = torch.Generator().manual_seed(0)
    exact = torch.randn(1, 4000, generator=draw)
    rounds = Rounds(exact, centred=True)
    for _ in range(10):
        # An offset of a whole round moves every pixel alike, and no order.
        noise = 2 * torch.randn(1, 4000, generator=draw) + 9 * torch.randn(1, 1, generator=draw)
        rounds.add(torch.tensor([0]), exact + noise)
    found = np.corrcoef(rounds.mean[0], exact[0])[0, 1]
    assert np.sqrt(1 - float(rounds.error()[0]) ** 2) == pytest.approx(found, abs=0.01)


def test_parts_of_a_batch_are_joined() -> None:
    one = Estimate(torch.tensor([0.1]), torch.tensor([4]))
    other = Estimate(torch.tensor([0.2, 0.3]), torch.tensor([5, 6]))
    joined = Estimate.joined([one, other])
    assert joined is not None
    assert joined.rounds.tolist() == [4, 5, 6]
    torch.testing.assert_close(joined.error, torch.tensor([0.1, 0.2, 0.3]))
    assert Estimate.joined([None]) is None
