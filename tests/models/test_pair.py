from __future__ import annotations

import pytest
import torch
from torch import nn

from saliency_lab.errors import UserError
from saliency_lab.inference.folding import folded_copy
from saliency_lab.models.pair import PairNetwork, class_pair


@pytest.mark.parametrize("pair", [(1, 3), (3, 1), (0, 1)])
def test_it_answers_with_two_logits_and_can_be_folded(pair):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    images = torch.rand(2, 3, 8, 8)
    two = PairNetwork(network.eval(), *pair).eval()
    with torch.no_grad():
        expected = network(images)[:, list(pair)]
        assert torch.equal(two(images), expected)
        torch.testing.assert_close(folded_copy(two)(images), expected)


def test_pairs_by_name():
    assert class_pair(["cat", "dog"], None) == (0, 1)
    assert class_pair(["bird", "cat", "dog"], ["dog", "bird"]) == (2, 0)
    with pytest.raises(UserError, match="to name two classes, because the model has 3"):
        class_pair(["bird", "cat", "dog"], None)
    with pytest.raises(UserError, match=r"`method\.classes`.*cow"):
        class_pair(["bird", "cat", "dog"], ["cow", "dog"])
    with pytest.raises(UserError, match="two different classes"):
        class_pair(["bird", "cat", "dog"], ["dog", "dog"])
