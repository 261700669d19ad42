"""The same experiment through saliency_lab, as its evaluator runs it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.plain import METHODS, PAPER_CURVES
from saliency_lab.attribution.maps import maps
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.draws import drawn_fractions
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.deletion.removal import PAPER_FRACTIONS, deletion_levels
from saliency_lab.imputation.fills import fill_images
from saliency_lab.inference.engine import PreparedModel


def all_maps(prepared: PreparedModel, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The five maps and the intact images' logits."""
    parts = prepared.maps(
        lambda rows: maps(prepared.model, images[rows], names=METHODS), len(images)
    )
    found = {method: torch.cat([part.maps[method] for part in parts]) for method in METHODS}
    return found, torch.cat([part.logits for part in parts if part.logits is not None])


def calibrate(
    prepared: PreparedModel, images: Tensor, found: dict[str, Tensor], intact: Tensor
) -> None:
    """Run curves until the screen, if there is one, has its threshold, as on a long run."""
    while screen_report(prepared).get("calibrated") is False:
        all_curves(prepared, images, found, intact)


def screen_report(prepared: PreparedModel) -> dict[str, float]:
    """What the screen says of itself; empty where there is none."""
    screen = prepared.report().get("screen")
    return screen if isinstance(screen, dict) else {}


def paper_jobs(images: Tensor, found: dict[str, Tensor]) -> list[MaskingJob]:
    """The six paper curves; one sort per map."""
    levels = {method: deletion_levels(found[method]) for method in METHODS}
    fills = {fill: fill_images(images, fill) for fill in ("black", "white")}
    return [MaskingJob(levels[method], fills[fill]) for fill, method in PAPER_CURVES]


def drawn_steps(images: Tensor, draws: int) -> Tensor:
    """The fractions that the evaluator's `draws` would ask for, (B, draws)."""
    starts = torch.rand(len(images), generator=torch.Generator().manual_seed(0))
    return drawn_fractions(PAPER_FRACTIONS, draws, starts).to(images.device)


def all_curves(
    prepared: PreparedModel,
    images: Tensor,
    found: dict[str, Tensor],
    intact: Tensor,
    draws: int | None = None,
) -> Tensor:
    """Predictions (J, B, F) of the six paper curves, or (J, B, draws) at some fractions only."""
    scores = masked_scores(
        prepared.scores,
        images,
        paper_jobs(images, found),
        len(PAPER_FRACTIONS),
        batch_size=prepared.scores_batch,
        intact=intact,
        steps=None if draws is None else drawn_steps(images, draws),
    )
    return torch.stack([score.prediction for score in scores])
