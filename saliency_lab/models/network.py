"""Networks from pixels in [0, 1] to logits, made from timm's by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from saliency_lab.config.binding import built, located
from saliency_lab.errors import UserError
from saliency_lab.models import basic_cnn as _registers_basic_cnn  # noqa: F401
from saliency_lab.models.weights import load_backbone


class Normalize(nn.Module):
    """(x − mean) / std per channel, for pixels in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Network(nn.Module):
    """Normalisation, backbone and, for `head=on_logits`, a linear layer on the backbone's logits.

    Input: images (B, C, H, W) in [0, 1]. Output: logits (B, K).
    """

    def __init__(
        self, normalize: nn.Module, backbone: nn.Module, head: nn.Module, freeze_bn: bool
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.head = head
        self.freeze_bn = freeze_bn

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(self.normalize(images)))

    def train(self, mode: bool = True) -> Network:
        """Training mode, except for frozen parts: their batch norms and dropout stay in eval."""
        super().train(mode)
        if mode and self.freeze_bn:
            for module in self.modules():
                parameters = list(module.parameters())
                if parameters and not any(p.requires_grad for p in parameters):
                    module.eval()
        return self


def network(
    name: str,
    num_classes: int,
    in_chans: int = 3,
    *,
    pretrained: bool = False,
    tag: str | None = None,
    weights: str | None = None,
    train: Literal["auto", "head", "all"] = "auto",
    head: Literal["replace", "on_logits"] = "replace",
    freeze_bn: bool = True,
    normalize: Literal["auto", "none", "own"] = "auto",
    load_weights: bool = True,
) -> Network:
    """A classifier for images in [0, 1].

    Args:
        name: timm's name of the architecture.
        num_classes: number of logits K.
        in_chans: channels C of the images.
        pretrained: take published weights, which timm downloads.
        tag: which of the published weights, for example `tv_in1k`; None for timm's default.
        weights: a file of weights for the backbone (safetensors, or a state dict that torch
            loads with `weights_only=True`, or a checkpoint of this program), instead of a download.
        train: `head` trains the classification layer only, `all` everything; `auto` is `head`
            where weights are given and `all` from scratch.
        head: `replace` puts a new linear layer in place of the backbone's; `on_logits` keeps the
            backbone's logits and feeds them to a new linear layer, as the reference does.
        freeze_bn: keep the batch norms of frozen parts in eval mode; otherwise their running
            statistics go on updating while training.
        normalize: `own` normalises by the mean and std that timm holds for this architecture,
            `none` leaves pixels in [0, 1]; `auto` is `own` with weights and `none` from scratch.
        load_weights: False builds the same modules, normalisation and frozen parts without reading
            or downloading any weights; a checkpoint brings them.

    Raises:
        UserError: no such architecture, no such weights, or weights that do not fit.
    """
    _check_name(name)
    given = pretrained or weights is not None
    if head == "on_logits" and not given:
        raise UserError(
            "Expected `model.head=on_logits` to come with weights, but neither "
            "`model.pretrained=true` nor `model.weights=FILE` is given"
        )
    full_name = f"{name}.{tag}" if tag else name
    width = None if head == "on_logits" else num_classes
    download = pretrained and weights is None and load_weights
    backbone = _backbone(full_name, width, in_chans, download)
    if weights is not None and load_weights:
        load_backbone(backbone, Path(weights), new_head=head == "replace")
    data = resolve_model_data_config(backbone)
    own = normalize == "own" or (normalize == "auto" and given)
    layer = Normalize(data["mean"][:in_chans], data["std"][:in_chans]) if own else nn.Identity()
    top: nn.Module = nn.Identity()
    if head == "on_logits":
        top = nn.Linear(backbone.num_classes, num_classes)
    if train == "head" or (train == "auto" and given):
        backbone.requires_grad_(False)
        if head == "replace":
            for parameter in backbone.get_classifier().parameters():
                parameter.requires_grad_(True)
    return Network(layer, backbone, top, freeze_bn)


def _check_name(name: str) -> None:
    if timm.is_model(name):
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UserError(f"Expected `model.name` to be an architecture of timm, but got '{name}'.{hint}")


def _backbone(
    full_name: str, num_classes: int | None, in_chans: int, pretrained: bool
) -> nn.Module:
    settings: dict[str, int] = {"in_chans": in_chans}
    if num_classes is not None:
        settings["num_classes"] = num_classes
    try:
        return timm.create_model(full_name, pretrained=pretrained, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Expected `model.pretrained=true` to find published weights of '{full_name}', but "
            f"got: {reason} (without a network, give a file: model.weights=FILE)"
        ) from error


def built_network(
    component: Mapping[str, Any], num_classes: int, in_chans: int, *, load_weights: bool = True
) -> nn.Module:
    """The network that a `model` component describes, for images with `in_chans` channels.

    Any callable that takes `num_classes` and gives a module will do as `_target_`; `in_chans` and
    `load_weights` are passed where its signature names them.

    Raises:
        UserError: an argument does not fit the target, or what it gives is no module.
    """
    target = located(str(component.get("_target_")), "model")
    offered = {"in_chans": in_chans, "load_weights": load_weights}
    named = inspect.signature(target).parameters
    given = {name: value for name, value in offered.items() if name in named}
    net = built(component, "model", num_classes=num_classes, **given)
    if not isinstance(net, nn.Module):
        raise UserError(
            f"Expected `model._target_` to give a torch module, but got {type(net).__name__}"
        )
    return net
