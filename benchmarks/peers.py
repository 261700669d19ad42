"""The same work by Captum and a masking loop, and one curve by Quantus."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from captum.attr import Saliency
from torch import Tensor, nn

from benchmarks.plain import METHODS, PAPER_CURVES, curve
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.deletion.removal import deletion_levels
from saliency_lab.imputation.fills import fill_images

# Quantus wants the features of a step, three per pixel, to divide the number of pixels: 18 steps
# do for 30x30 and 222x222 images.
STEPS = 18


def captum_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The five maps from one Saliency per class."""
    saliency = Saliency(model)
    with torch.no_grad():
        logits = model(images)
    targets = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets requires_grad on its input
        every = [
            saliency.attribute(images.clone(), target=label, abs=False)
            for label in range(logits.shape[1])
        ]
    gradients = torch.stack(every)
    rows = torch.arange(len(images))
    own = gradients[targets, rows]
    others = gradients.clone()
    others[targets, rows] = -torch.inf
    above = own > others.amax(0)
    others[targets, rows] = torch.inf
    below = own < others.amin(0)
    fields = (own.abs(), own.relu(), (-own).relu(), own.abs() * above, own.abs() * below)
    return {method: field.amax(1) for method, field in zip(METHODS, fields, strict=True)}


def captum_curves(model: nn.Module, images: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """The six paper curves, one forward per step over the batch of images."""
    return torch.stack([curve(model, images, maps[method], fill) for fill, method in PAPER_CURVES])


def quantus_curve(model: nn.Module, images: Tensor, saliency: Tensor, targets: Tensor) -> Tensor:
    """Probability of the target class (B, STEPS) as ever more of the top pixels go black."""
    import quantus

    pixels = saliency[0].numel()
    metric = quantus.PixelFlipping(
        # Quantus counts every channel of a pixel as a feature of its own.
        features_in_step=images.shape[1] * pixels // STEPS,
        perturb_baseline=0.0,
        normalise=False,
        disable_warnings=True,
    )
    attributions = saliency[:, None].expand_as(images).cpu().numpy()
    scores = metric(
        model=model,
        x_batch=images.cpu().numpy(),
        y_batch=targets.cpu().numpy(),
        a_batch=np.ascontiguousarray(attributions),
        softmax=True,
        device=str(images.device),
        batch_size=len(images),
    )
    return torch.tensor(np.asarray(scores), dtype=torch.float32)


def our_curve(
    forward: object, images: Tensor, saliency: Tensor, targets: Tensor, batch: int
) -> Tensor:
    """The same curve by this program's standard protocol with the same steps."""
    fractions = [step / STEPS for step in range(1, STEPS + 1)]
    job = MaskingJob(deletion_levels(saliency, fractions, "standard"), fill_images(images, "black"))
    (scores,) = masked_scores(
        forward,  # type: ignore[arg-type]
        images,
        [job],
        STEPS,
        targets,
        batch_size=batch,
    )
    return scores.probability
