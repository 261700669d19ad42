"""Curves whose fill depends on the mask, against a loop over single images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.evaluation.deletion.curves import deletion_curve, masked_scores
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.deletion.removal import deletion_levels
from saliency_lab.imputation.fills import fill_images
from saliency_lab.imputation.linear import road, road_imputation

FRACTIONS = (0.0, 0.1, 0.3, 0.5, 0.9, 1.0)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 48, 4))


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_curves_with_imputation_equal_one_image_at_a_time(batch_size: int) -> None:
    model, images, maps = net().eval(), torch.rand(3, 3, 8, 10), torch.rand(3, 8, 10)
    levels = deletion_levels(maps, FRACTIONS, "standard")
    ids = ["a", "b", "c"]
    imputation = road_imputation(images, generator=SampleGenerator(5, ids))
    jobs = [
        MaskingJob(levels, fill_images(images, "blur")),
        MaskingJob(levels, imputation),
        MaskingJob(levels, imputation, "insertion"),
    ]
    found = masked_scores(model, images, jobs, len(FRACTIONS), batch_size=batch_size)
    classes = model(images).argmax(1)
    for step in range(len(FRACTIONS)):
        gone = levels <= step
        for scores, removed in ((found[1], gone), (found[2], ~gone)):
            expected = model(road(images, removed, generator=SampleGenerator(5, ids))).detach()
            logit = expected[range(3), classes]
            torch.testing.assert_close(scores.logit[:, step], logit, atol=1e-5, rtol=0)
            share = removed.float().mean((1, 2))
            torch.testing.assert_close(scores.deleted[:, step], share)
    alone = masked_scores(model, images, jobs[:1], len(FRACTIONS))
    torch.testing.assert_close(found[0].logit, alone[0].logit, atol=1e-6, rtol=0)


def test_road_is_a_fill_like_any_other() -> None:
    model, images, maps = net(), torch.rand(3, 3, 8, 10), torch.rand(3, 8, 10)
    kept = images.clone()
    streams = SampleGenerator(1, range(3))
    curve = deletion_curve(model, images, maps, "road", generator=streams)
    assert curve.shape == (3, 13)
    assert bool(curve[:, 0].all())
    assert torch.equal(images, kept)
