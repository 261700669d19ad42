from __future__ import annotations

import pytest
import torch

from saliency_lab.attribution.streaming import TABLE_CLASSES, StreamedField

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("count", [4, TABLE_CLASSES + 1])
def test_sum_of_terms_for_any_class(count):
    passes = []

    def terms():
        passes.append(1)
        for number in range(1, 4):
            yield (
                lambda classes, number=number: (
                    (number * classes).double()[:, None, None, None].expand(-1, 1, 2, 2)
                )
            )

    field = StreamedField(torch.zeros(3, count), terms)
    for classes in ([0, 1, 2], [2, 1, 3], [3, 3, 0], [1, 0, 2]):
        expected = 6.0 * torch.tensor(classes, dtype=torch.float64)
        assert torch.equal(field.of(torch.tensor(classes))[:, 0, 1, 1], expected)
    # With few classes the second question pays for all that follow.
    assert len(passes) == (2 if count <= TABLE_CLASSES else 4)
