"""Networks whose logits of an image are not the image's own."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from saliency_lab.inference.engine import Engine

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(192, 5)
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        if self.kind == "neighbours":
            return logits - logits.mean(0)
        return logits + torch.randn_like(logits) if self.kind == "random" else logits


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("own", None),
        ("neighbours", "depend on which other images are in its batch"),
        ("random", "change from one call to the next"),
    ],
)
def test_logits_that_are_not_the_images_own_are_told(
    kind: str, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Engine().prepare(Linear(kind).eval(), IMAGES)
    found = [record.message for record in caplog.records if "logits of an image" in record.message]
    assert len(found) == (said is not None)
    if said is not None:
        assert said in found[0]
