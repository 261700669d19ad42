from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.summed_field import StreamedField
from saliency_lab.attribution.core.views import views
from saliency_lab.attribution.maps import maps

pytestmark = pytest.mark.usefixtures("float64")


def test_views_that_compare_classes_take_one_pass() -> None:
    passes: list[int] = []

    def terms() -> Iterator[Callable[[Tensor], Tensor]]:
        passes.append(1)
        yield lambda classes: classes.double()[:, None, None, None].expand(-1, 1, 2, 2) - 1.5

    targets = torch.tensor([3, 0, 1])
    found = maps(
        nn.Identity(), torch.zeros(3, 1, 2, 2), lambda model, images, generator: StreamedField(
            torch.zeros(3, 4), terms), ("original", "active"), targets
    ).maps  # fmt: skip
    assert len(passes) == 1
    assert found["original"][:, 0, 0].tolist() == [1.5, 1.5, 0.5]
    assert found["active"][:, 0, 0].tolist() == [1.5, 0, 0]
    passes.clear()
    views(StreamedField(torch.zeros(3, 4), terms), targets, ("original", "positive"))
    assert len(passes) == 1


@pytest.mark.parametrize(("count", "table"), [(4, True), (16, True), (17, False)])
def test_sum_of_terms_for_any_class(count, table):
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
    assert len(passes) == (2 if table else 4)
