"""Networks that fail on altered images only: refused, never scored as if NaN were an answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import saliency_lab as sl
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.localisation.use import flips
from saliency_lab.evaluation.perturbation import NonFiniteAlteredError, require_finite_altered

IMAGES = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
MAPS = torch.rand(4, 12, 12, generator=torch.Generator().manual_seed(1))


class Logarithm(nn.Module):
    """Finite while no pixel is 0 or less."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.log().mean((2, 3)))


MEASURES: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "deletion": (lambda m: sl.deletion_curve(m, IMAGES, MAPS, "black"), r"masked images \(black\)"),
    "gain": (lambda m: sl.relevance_gain(m, IMAGES, MAPS, fill="black"), r"images \(black\)"),
    "infidelity": (
        lambda m: sl.infidelity(m, IMAGES, MAPS, perturbation="square", samples=3),
        r"perturbed images \(perturbation square\)",
    ),
    "mu": (lambda m: sl.mu_fidelity(m, IMAGES, MAPS, samples=3), r"cells replaced \(baseline 0\)"),
    "n": (
        lambda m: sl.sensitivity_n(m, IMAGES, MAPS, samples=3),
        r"pixels replaced \(baseline 0\)",
    ),
    "rs": (
        lambda m: sl.relative_sensitivity(m, IMAGES, MAPS > 0.5),
        "images with blackened pixels",
    ),
    "gaps": (lambda m: sl.prediction_gaps(m, IMAGES, MAPS, sigma=1), r"with noise \(sigma 1\)"),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("ready", [False, True])
def test_logits_of_altered_images_that_are_not_finite_are_refused(name: str, ready: bool) -> None:
    measured, altered = MEASURES[name]
    model = Logarithm().eval()
    wanted = rf"finite logits of .*{altered}, but got NaN or infinity for copies of images 0, 1"
    with pytest.raises(NonFiniteAlteredError, match=wanted):
        measured(sl.prepared(model, IMAGES) if ready else model)


@pytest.mark.parametrize(
    ("evaluator", "settings"),
    [
        ("deletion", {"fills": ["white", "black"]}),
        ("infidelity", {"perturbation": "square", "samples": 3}),
    ],
)
def test_evaluators_name_samples(evaluator: str, settings: dict[str, object]) -> None:
    ids = ["a.png", "b.png", "c.png", "d.png"]
    with pytest.raises(NonFiniteAlteredError, match=r"\((black|perturbation square)\).* a.png, b"):
        sl.measure(Logarithm(), IMAGES, "original", evaluator, sample_ids=ids, **settings)


@pytest.mark.parametrize(
    ("evaluator", "settings", "altered"),
    [
        ("stability", {"perturbations": ["gaussian"], "deviation": 0.5}, r"\(gaussian\)"),
        ("max_sensitivity", {"radius": 0.5}, "moved by 0.5"),
    ],
)
def test_maps_of_moved_images_that_are_not_finite_are_refused(
    evaluator: str, settings: dict[str, object], altered: str
) -> None:
    """A map of NaN has no similarity to any other, and is not the most stable of all."""
    wanted = rf"finite logits and maps of .*{altered}, but got NaN or infinity .* images a.png, b"
    ids = ["a.png", "b.png", "c.png", "d.png"]
    with pytest.raises(NonFiniteAlteredError, match=wanted):
        sl.measure(Logarithm(), IMAGES, "original", evaluator, sample_ids=ids, **settings)


def test_covered_pixels_that_lose_the_logits_flip_nothing() -> None:
    """The largest of NaN is class 0, which would be another class than the intact one."""
    covered = torch.zeros(4, 12, 12, dtype=torch.bool)
    covered[2] = True
    with pytest.raises(NonFiniteAlteredError, match=r"with covered pixels, .* images 2\.$"):
        flips(Logarithm().eval(), IMAGES, covered, torch.zeros_like(IMAGES))
    assert not flips(Logarithm().eval(), IMAGES, covered, IMAGES).any()


def test_an_attack_that_loses_the_logits_keeps_nothing() -> None:
    found = sl.measure(
        Logarithm(), IMAGES, "original", "fragility", attacks=["random"], budget=1.0, steps=3
    )
    assert found["kept"].eq(0).all()
    assert found["top_k"].eq(1).all()


def test_only_images_that_fail_are_named() -> None:
    images, levels = IMAGES.clone(), torch.ones(4, 12, 12, dtype=torch.uint8)
    fill = torch.full_like(images, 0.5)
    fill[2] = 0
    images[3] = 0  # its intact logits are not finite: left out of the rows by who asks
    jobs = [MaskingJob(levels, torch.full_like(images, 0.5), name="grey"), MaskingJob(levels, fill)]
    with pytest.raises(NonFiniteAlteredError, match=r"images \(fill\), .* of images 2\.$"):
        masked_scores(Logarithm().eval(), images, jobs, 2)
    grey, _ = masked_scores(Logarithm().eval(), images, [jobs[0], jobs[0]], 2)
    assert grey.logit[:3].isfinite().all()


def test_one_score_is_enough_and_intact_images_are_not_judged() -> None:
    scores, intact = torch.zeros(3, 2, 4), torch.zeros(3)
    require_finite_altered(scores, intact, "copies")
    scores[1], intact[1] = torch.nan, torch.inf
    require_finite_altered(scores, intact, "copies")
    scores[2, 1, 3] = torch.inf
    with pytest.raises(NonFiniteAlteredError, match="images 2"):
        require_finite_altered(scores, intact, "copies")
