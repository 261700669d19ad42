"""Gradient artificial distancing (GAD) around any source of a class field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField, input_gradients_only
from saliency_lab.attribution.core.importance import Rule, marked_pixels
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.attribution.core.sources import expect_field_source, source_output
from saliency_lab.attribution.core.views import views
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.errors import UserError


@dataclass(frozen=True)
class SupportTraining:
    """How support models are trained; the defaults are the paper's where it states them.

    Args:
        alphas: what is subtracted from the wrong class's logit; one support model each.
        epochs: passes over the training images of the two classes.
        learning_rate: of Adam.
        batch_size: images per step over all processes; not stated by the paper.
        limit: training images of both classes together; None for all.
    """

    alphas: Sequence[Annotated[float, Ge(0)]] = (0, 2, 4, 6, 8)
    epochs: Annotated[int, Gt(0)] = 10
    learning_rate: Annotated[float, Gt(0)] = 4e-5
    batch_size: Annotated[int, Gt(0)] = 32
    limit: Annotated[int, Gt(0)] | None = None


@dataclass(frozen=True)
class SupportModels:
    """Trained support models, each from images (B, C, H, W) to the explained model's logits.

    Attributes:
        distanced: one per α.
        retrained: as many, all of α = 0, in other orders of the images: what retraining alone
            does. Maps need none of them.
    """

    distanced: Sequence[nn.Module]
    retrained: Sequence[nn.Module] = ()

    def each(self, change: Callable[[nn.Module], nn.Module]) -> SupportModels:
        """Every network changed, one that stands in several places once."""
        known = {network: change(network) for network in (*self.distanced, *self.retrained)}
        return SupportModels(
            tuple(known[network] for network in self.distanced),
            tuple(known[network] for network in self.retrained),
        )

    def as_control(self) -> SupportModels:
        """The retrained models in place of the distanced ones."""
        return SupportModels(self.retrained)


def uses_support(source: Callable[..., object]) -> bool:
    """Whether a source wants support models, or has them."""
    return "support" in inspect.signature(getattr(source, "func", source)).parameters


def needs_support(source: Callable[..., object]) -> bool:
    """Whether a source wants support models, which nobody has given it yet."""
    return uses_support(source) and getattr(source, "keywords", {}).get("support") is None


@input_gradients_only
def gad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    support: SupportModels | None = None,
    base: Callable[..., ClassField] = gradient,
    classes: tuple[str, str] | None = None,
    level: Annotated[float, Gt(0), Le(1)] = 0.5,
    rule: Rule = "top",
    training: SupportTraining | None = None,
    generator: SampleGenerator | None = None,
) -> Tensor:
    """The base's original map, kept where it is important to the model and all support models.

    A support model starts from the model's weights and is trained to give the model's logits
    with α subtracted from the wrong class's. What stays important whatever α is kept.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        targets: the explained classes, int64 (B,); for support models of a pair, of that pair.
        support: the support models; `evaluate` and `explain` train them (see
            `saliency_lab.training.support`) and give them.
        base: the class-field source; random ones draw the same numbers for every network.
        classes: the pair of classes by name, in a model of more; read by the tasks, which ask
            the model and its support models for the logits of this pair alone.
        level, rule: which pixels of a map are important, see `important_pixels`.
        training: read by the tasks: how the support models are trained.
        generator: one stream per image.

    Returns:
        Shape (B, H, W), float32, non-negative, in units of the base's field; at least half of it
        is 0 under the default rule.

    Raises:
        UserError: no support model is given, or the base is no source of a class field.

    Source: Rodrigues, Boutry, Najman, "Transforming gradient-based techniques into interpretable
    methods", 2024.
    """
    if support is None or not support.distanced:
        raise UserError(
            "Expected `support` to hold the support models of the model, but got none; "
            "`evaluate method=gad` and `explain method=gad` train them"
        )
    expect_field_source(base)

    def original_map(network: nn.Module) -> Tensor:
        field = source_output(base, network, images, generator=restarted(generator, images))
        return views(field, targets, ("original",))["original"]

    original = original_map(model)
    kept = marked_pixels(original, level, rule)
    for network in dict.fromkeys(support.distanced):
        if network is not model:  # which would take nothing away
            kept &= marked_pixels(original_map(network), level, rule)
    return torch.where(kept, original, 0).float()
