"""A classifier that no training of this program has made: the network as its settings give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.config.binding import located
from saliency_lab.errors import UserError
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.construction import built_network


class ChosenLogits(nn.Module):
    """Some of a network's logits in another order: images (B, C, H, W) to (B, len(places))."""

    places: Tensor

    def __init__(self, network: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("places", torch.tensor(list(places)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits[:, self.places]


def given_classifier(
    component: Mapping[str, Any], classes: Sequence[str], input_shape: tuple[int, int, int]
) -> Classifier:
    """The network of a component as a classifier of these classes, in eval mode.

    Args:
        component: whose target brings its weights with it. `classes` in it names the logits in
            their order; those that are not of the data are left out, so that the answer is always
            one of the data's classes.
        classes: of the data.
        input_shape: (C, H, W) of the data's images.

    Raises:
        UserError: the network does not fit the data, or the names do not.
    """
    own = component.get("classes") or classes
    missing = [name for name in classes if name not in own]
    if missing:
        raise UserError(
            f"Expected `model.classes` to name every class of the data, but "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''} "
            f"{'is' if len(missing) == 1 else 'are'} not among its {len(own)}"
        )
    network = built_network(component, len(own), input_shape)
    if tuple(own) != tuple(classes):
        network = ChosenLogits(network, [list(own).index(name) for name in classes])
    facts = {
        "model": dict(component),
        "classes": list(classes),
        "input_shape": list(input_shape),
    }
    return Classifier(network, len(classes), facts=facts).eval()


def has_layers(component: Mapping[str, Any]) -> bool:
    """Whether the layers of a component's network can be looked into, hooked and trained."""
    target = located(str(component.get("_target_")), "model")
    return not getattr(target, "without_layers", False)
