"""Curves against a loop over single masked images, closed forms, and counts of forwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.views import views
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.curves import _filled, deletion_curve, masked_scores
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.deletion.removal import (
    PAPER_FRACTIONS,
    area_under_curve,
    deletion_levels,
)
from saliency_lab.imputation.fills import fill_images

F = len(PAPER_FRACTIONS)


class Counted:
    """A forward that counts calls and images."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.model(images)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 6 * 8, 7)
    ).eval()


def sparse_maps(batch: int = 4) -> Tensor:
    """Maps of 8×10 with ties, of which one is constant and one runs out of non-zero pixels."""
    maps = torch.rand(batch, 8, 10, generator=torch.Generator().manual_seed(1))
    maps[0] = 0.5
    maps[1] *= maps[1] > 0.7
    maps[2] = (maps[2] * 5).floor()
    return maps


def plain_scores(
    model: nn.Module, image: Tensor, levels: Tensor, fill: Tensor, mode: str, target: int
) -> list[tuple[int, float, float, float]]:
    """One masked image at a time: prediction, probability, logit, share deleted."""
    rows = []
    for f in range(F):
        masked = image.clone()
        count = 0
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                chosen = levels[i, j].item() <= f
                if chosen == (mode == "deletion"):
                    masked[:, i, j] = fill[:, i, j]
                    count += 1
        logits = model(masked[None])[0].detach()
        probability = logits.softmax(0)[target].item()
        share = count / levels.numel()
        rows.append((int(logits.argmax()), probability, logits[target].item(), share))
    return rows


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_many_jobs_at_once_equal_one_image_at_a_time(batch_size: int) -> None:
    model, images = net(), torch.rand(4, 3, 8, 10)
    paper = deletion_levels(sparse_maps())
    ranks = deletion_levels(sparse_maps(), PAPER_FRACTIONS, "standard")
    jobs = [
        MaskingJob(paper, fill_images(images, "black")),
        MaskingJob(paper, fill_images(images, "blur")),
        MaskingJob(paper, fill_images(images, "white"), "insertion"),
        MaskingJob(ranks, fill_images(images, "mean")),
        MaskingJob(ranks, fill_images(images, "shift+0.1"), "insertion"),
    ]
    found = masked_scores(model, images, jobs, F, batch_size=batch_size)
    classes = model(images).argmax(1).tolist()
    for job, scores in zip(jobs, found, strict=True):
        for b in range(4):
            expected = plain_scores(
                model, images[b], job.levels[b], job.fill[b], job.mode, classes[b]
            )
            prediction, probability, logit, share = zip(*expected, strict=True)
            assert scores.prediction[b].tolist() == list(prediction)
            assert scores.probability[b].tolist() == pytest.approx(probability, abs=1e-6)
            assert scores.logit[b].tolist() == pytest.approx(logit, abs=1e-5)
            assert scores.deleted[b].tolist() == pytest.approx(share, abs=1e-7)


def test_another_class_can_be_scored() -> None:
    model, images = net(), torch.rand(4, 3, 8, 10)
    job = MaskingJob(deletion_levels(sparse_maps()), fill_images(images, "black"))
    targets = torch.tensor([0, 1, 2, 3])
    (scores,) = masked_scores(model, images, [job], F, targets)
    logits = model(images).detach()
    torch.testing.assert_close(scores.logit[:, 0], logits[range(4), targets])
    assert torch.equal(scores.prediction[:, 0], logits.argmax(1))


def test_only_distinct_images_are_run_in_full_batches() -> None:
    model, images = net(), torch.rand(4, 3, 8, 10)
    levels = deletion_levels(sparse_maps())
    jobs = [MaskingJob(levels, fill_images(images, fill)) for fill in ("black", "white")]
    distinct = {(b, tuple((levels[b] <= f).flatten().tolist())) for b in range(4) for f in range(F)}
    bare = {entry for entry in distinct if not any(entry[1])}
    forward = Counted(model)
    masked_scores(forward, images, jobs, F, batch_size=16)
    masked = 2 * len(distinct - bare)
    assert sum(forward.batches) == 4 + masked
    full, rest = divmod(masked, 16)
    assert sorted(forward.batches[1:]) == sorted([16] * full + [rest] * (rest > 0))
    known = Counted(model)
    masked_scores(known, images, jobs, F, batch_size=16, intact=model(images))
    assert sum(known.batches) == masked


def test_constant_maps_need_the_intact_images_only() -> None:
    forward, images = Counted(net()), torch.rand(3, 3, 8, 10)
    levels = deletion_levels(torch.ones(3, 8, 10))
    jobs = [MaskingJob(levels, fill_images(images, fill)) for fill in ("black", "white")]
    for scores in masked_scores(forward, images, jobs, F):
        assert not scores.deleted.any()
        assert bool((scores.prediction == scores.prediction[:, :1]).all())
    assert forward.batches == [3]


def test_linear_model_has_the_curve_and_area_one_can_work_out() -> None:
    """Two logits, w·x and 2: the first is the sum of the image, whose 10 pixels add up to 10·0.5.

    The prediction is class 0 while the sum is above 2. Black-deletion of p·10 of the pixels leaves
    (1 − p)·5, which is above 2 while p < 0.6; at p = 0.6 it equals 2, and the lower class wins.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 2))
    model[1].weight.data = torch.stack([torch.ones(10), torch.zeros(10)])
    model[1].bias.data = torch.tensor([0.0, 2.0])
    images = torch.full((1, 1, 2, 5), 0.5)
    maps = torch.arange(10.0, 0, -1).view(1, 2, 5)
    curve = deletion_curve(model, images, maps, "black")
    kept = [p < 0.65 for p in PAPER_FRACTIONS]
    assert curve[0].tolist() == kept
    # Ones up to 0.6, then down to zero at 0.7: 0.6 + 0.05.
    assert area_under_curve(curve, PAPER_FRACTIONS).item() == pytest.approx(0.65)
    white = deletion_curve(model, images, maps, "white")
    assert white.all()
    assert area_under_curve(white, PAPER_FRACTIONS).item() == pytest.approx(0.9)
    # Shown pixels add up to p·5: above 2 from 0.4 on, where it ties and the lower class wins.
    shown = deletion_curve(model, images, maps, "black", mode="insertion")
    assert shown[0].tolist() == [p > 0.35 for p in PAPER_FRACTIONS]


def test_the_whole_way_on_a_linear_model() -> None:
    """Maps of a linear model are its weights; deleting the most active pixel flips the class."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight.data = torch.tensor([[5.0, 1.0, 0.0, -1.0], [0.0, 1.0, 2.0, 0.0]])
    images = torch.ones(1, 1, 2, 2)
    found = views(gradient(model, images), torch.tensor([0]), ["active", "inactive"])
    assert found["active"].tolist() == [[[5, 0], [0, 0]]]
    # Strictly below class 1 at pixels 2 (0 < 2) and 3 (−1 < 0); the magnitude at pixel 2 is 0.
    assert found["inactive"].tolist() == [[[0, 0], [0, 1]]]
    assert deletion_curve(model, images, found["active"], fractions=(0.0, 0.25)).tolist() == [
        [True, False]
    ]


def test_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(192, 3))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(3, 3, 8, 10)
    deletion_curve(model, images, sparse_maps(3))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, images, maps = net(), torch.rand(4, 3, 8, 10), sparse_maps()
    together = deletion_curve(model, images, maps)
    for row in range(4):
        alone = deletion_curve(model, images[row : row + 1], maps[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_a_double_models_predictions_are_its_own() -> None:
    """Of logits that float32 cannot tell apart, too: the untouched image agrees with itself."""

    class Near(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 1e9 + images.double().flatten(1)[:, :3]

    images = torch.rand(6, 3, 4, 4, dtype=torch.float64)
    found = deletion_curve(Near(), images, torch.rand(6, 4, 4), fractions=[0.0])
    assert found.all()


def test_road_in_another_range_is_stretched() -> None:
    images, maps = torch.rand(8, 3, 8, 8), torch.rand(8, 8, 8)
    streams = [SampleGenerator(0, [str(at) for at in range(8)]) for _ in range(2)]
    unit = _filled(images, "road", streams[0], (0, 1))
    wide = _filled(images * 255, "road", streams[1], (0, 255))
    rows, removed = torch.arange(8), maps > 0.5
    torch.testing.assert_close(wide(rows, removed), unit(rows, removed) * 255, rtol=1e-4, atol=1e-3)


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(4, 8, 10\).*got \(4, 10, 8\)"):
        deletion_curve(net(), torch.rand(4, 3, 8, 10), sparse_maps().mT)
    with pytest.raises(UserError, match="`mode` to be one of deletion, insertion"):
        deletion_curve(net(), torch.rand(4, 3, 8, 10), sparse_maps(), mode="delete")


def test_a_single_logit_is_refused() -> None:
    """Its only class is always kept, so every map would have the largest area."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 1))
    images = torch.rand(4, 3, 8, 10)
    with pytest.raises(UserError, match=r"at least two classes.* but got 1; .*\(0, s\)"):
        deletion_curve(model, images, sparse_maps())
    two = nn.Sequential(model, nn.ConstantPad1d((1, 0), 0.0))
    scores = model(images)[:, 0].sigmoid()
    level = torch.full((4, 8, 10), F)
    (found,) = masked_scores(
        two, images, [MaskingJob(level, fill_images(images, "black"))], F, torch.ones(4).long()
    )
    torch.testing.assert_close(found.probability, scores[:, None].expand(-1, F))
