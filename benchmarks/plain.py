"""The reference experiment as a person would write it, without thinking of speed.

Every method computes its own gradients with `.backward()`; active and inactive take one forward
and one backward per class; every method is deleted with both fills; every fraction sorts anew.
Everything is batched over images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saliency_lab.evaluation.deletion.removal import PAPER_FRACTIONS

METHODS = ("original", "positive", "negative", "active", "inactive")
PAPER_CURVES = tuple(("black", view) for view in ("original", "positive", "active")) + tuple(
    ("white", view) for view in ("original", "negative", "inactive")
)


def class_gradient(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The gradient of one class's logit per image, by a full backward."""
    model.zero_grad()
    images = images.clone().requires_grad_(True)
    logits = model(images)
    logits[torch.arange(len(images)), classes].sum().backward()
    assert images.grad is not None
    return images.grad


def saliency_map(model: nn.Module, images: Tensor, targets: Tensor, method: str) -> Tensor:
    """One method's maps (B, H, W)."""
    if method in ("original", "positive", "negative"):
        gradient = class_gradient(model, images, targets)
        if method == "positive":
            gradient = gradient.relu()
        if method == "negative":
            gradient = (-gradient).relu()
        return gradient.abs().amax(1)
    with torch.no_grad():
        classes = model(images[:2]).shape[1]
    every = [
        class_gradient(model, images, torch.full_like(targets, label)) for label in range(classes)
    ]
    gradients = torch.stack(every)
    own = gradients[targets, torch.arange(len(images))]
    kept = torch.ones_like(own, dtype=torch.bool)
    for label in range(classes):
        other = (targets != label)[:, None, None, None]
        wins = own > gradients[label] if method == "active" else own < gradients[label]
        kept &= wins | ~other
    return (own.abs() * kept).amax(1)


def all_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The five maps of the predicted class, each method by itself."""
    with torch.no_grad():
        targets = model(images).argmax(1)
    return {method: saliency_map(model, images, targets, method) for method in METHODS}


def curve(model: nn.Module, images: Tensor, saliency: Tensor, fill: str) -> Tensor:
    """Predictions (B, F) under deletion by the paper's protocol."""
    answers = []
    with torch.no_grad():
        flat = saliency.flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        scaled = (flat - low) / (high - low).clamp_min(1e-30)
        for fraction in PAPER_FRACTIONS:
            ordered = scaled.sort(dim=1, descending=True).values
            position = min(round(fraction * flat.shape[1]), flat.shape[1] - 1)
            gone = (scaled > ordered[:, position : position + 1]) & (scaled != 0)
            gone = gone.view(len(images), 1, *images.shape[2:]).expand_as(images)
            masked = images.clone()
            masked[gone] = 0.0 if fill == "black" else 1.0
            answers.append(model(masked).argmax(1))
    return torch.stack(answers, 1)


def all_curves(model: nn.Module, images: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """Predictions (J, B, F) of the six paper curves; both fills are run for every method."""
    found = {
        (fill, method): curve(model, images, maps[method], fill)
        for method in METHODS
        for fill in ("black", "white")
    }
    return torch.stack([found[pair] for pair in PAPER_CURVES])
