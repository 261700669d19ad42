"""Networks from pixels in [0, 1] to logits, made from timm's by name."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.inputs import Normalize
from saliency_lab.models import basic_cnn as _registers_basic_cnn  # noqa: F401
from saliency_lab.models import patch_sum as _registers_patch_sum  # noqa: F401
from saliency_lab.models.packaged import PREFIX, load_packaged
from saliency_lab.models.weights import classifier_layers, load_backbone


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
        # Lightning's fit leaves every module's mode as it finds it.
        self.train()

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
    image_size: tuple[int, int] | None = None,
    pretrained: bool = False,
    tag: str | None = None,
    weights: str | None = None,
    train: Literal["auto", "head", "all"] = "auto",
    head: Literal["replace", "on_logits"] = "replace",
    freeze_bn: bool = True,
    normalize: Literal["auto", "none", "own"] = "auto",
    zero_init_last: bool | None = None,
    arguments: Mapping[str, Any] | None = None,
    load_weights: bool = True,
) -> Network:
    """A classifier for images in [0, 1].

    Args:
        name: timm's name of the architecture.
        num_classes: number of logits K.
        in_chans: channels C of the images.
        image_size: (H, W), for architectures that are built for one size (transformers).
        pretrained: take published weights, which timm downloads.
        tag: which of the published weights, for example `tv_in1k`; None for timm's default.
        weights: a file of weights for the backbone (safetensors, or a state dict that torch
            loads with `weights_only=True`, or a checkpoint of this program), instead of a download;
            or `package:NAME`, those of an installed package (see `packaged.MODULES`).
        train: `head` trains the classification layer only, `all` everything; `auto` is `head`
            where weights are given and `all` from scratch.
        head: `replace` puts a new linear layer in place of the backbone's; `on_logits` keeps the
            backbone's logits (1,000, unless timm says otherwise) and feeds them to a new linear
            layer, as the reference does with weights and from scratch.
        freeze_bn: keep the batch norms of frozen parts in eval mode; otherwise their running
            statistics go on updating while training.
        normalize: `own` normalises by the mean and std that timm holds for this architecture,
            `none` leaves pixels in [0, 1]; `auto` is `own` with weights and `none` from scratch.
        zero_init_last: whether the last batch norm of each residual block starts at zero, so that
            the block starts as the identity, or at one, as in torchvision; None for timm's own
            choice, which is zero for ResNets. Only for architectures that leave the choice.
        arguments: further ones of the architecture's own, as timm names them, such as
            `patch_size` of a vision transformer.
        load_weights: False builds the same modules, normalisation and frozen parts without reading
            or downloading any weights; a checkpoint brings them.

    Raises:
        UserError: no such architecture, no such weights, weights that do not fit, or a setting
            that this architecture does not have.
    """
    full_name = _full_name(name, tag)
    given = pretrained or weights is not None
    settings: dict[str, Any] = {"in_chans": in_chans}
    if head == "replace":
        settings["num_classes"] = num_classes
    if image_size is not None and _is_of_one_size(full_name, image_size):
        settings["img_size"] = image_size
    if zero_init_last is not None:
        settings["zero_init_last"] = zero_init_last
    taken = settings.keys() & (arguments or {}).keys()
    if taken:
        raise UserError(
            "Expected `model.arguments` to hold further arguments of the architecture, but got "
            f"'{min(taken)}', which this program sets itself"
        )
    settings |= arguments or {}
    backbone = _backbone(full_name, pretrained and weights is None and load_weights, settings)
    if weights is not None and load_weights:
        if weights.startswith(PREFIX):
            load_packaged(backbone, weights.removeprefix(PREFIX), new_head=head == "replace")
        else:
            load_backbone(backbone, Path(weights), new_head=head == "replace")
    own = normalize == "own" or (normalize == "auto" and given)
    top: nn.Module = nn.Identity()
    if head == "on_logits":
        top = nn.Linear(_own_logits(backbone, full_name), num_classes)
    if train == "head" or (train == "auto" and given):
        backbone.requires_grad_(False)
        if head == "replace":
            for layer in classifier_layers(backbone):
                layer.requires_grad_(True)
    normalization = _normalization(backbone, in_chans) if own else nn.Identity()
    return Network(normalization, backbone, top, freeze_bn)


def _full_name(name: str, tag: str | None) -> str:
    """timm's `architecture.tag`, both known to exist."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(
            f"Expected `model.name` to be an architecture of timm, but got '{name}'.{hint}"
        )
    if tag is None:
        return name
    tags = [known.rpartition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag not in tags:
        raise unknown_choice("model.tag", tag, tags or ["null"])
    return f"{name}.{tag}"


def _is_of_one_size(full_name: str, size: tuple[int, int]) -> bool:
    """Whether the architecture is built for one image size, and for another than this one."""
    published = timm.get_pretrained_cfg(full_name)
    return (
        published is not None
        and bool(published.fixed_input_size)
        and tuple(published.input_size[1:]) != tuple(size)
    )


def _own_logits(backbone: Any, full_name: str) -> int:
    """How many logits the architecture has by itself."""
    count = int(backbone.num_classes)
    if count == 0:
        raise UserError(
            f"Expected `model.head=on_logits` to keep the network's own logits, but '{full_name}' "
            "has none; set model.head=replace"
        )
    return count


def _backbone(full_name: str, pretrained: bool, settings: dict[str, Any]) -> Any:
    made = _created(full_name, pretrained, settings)
    taken = inspect.signature(type(made).__init__).parameters
    # Some entry points swallow what their network does not take.
    if "zero_init_last" in settings and "zero_init_last" not in taken:
        raise _no_choice(full_name)
    return made


def _no_choice(full_name: str) -> UserError:
    return UserError(
        "Expected `model.zero_init_last` to be set for architectures that leave the choice "
        f"(ResNets), but '{full_name}' does not; leave it at null"
    )


def _created(full_name: str, pretrained: bool, settings: dict[str, Any]) -> Any:
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
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] not in ("zero_init_last", "img_size"):
            raise UserError(
                f"Expected `model.arguments` to hold arguments of '{full_name}', but got "
                f"'{unknown[1]}', which it does not take"
            ) from error
        if "zero_init_last" in settings and "zero_init_last" in str(error):
            raise _no_choice(full_name) from error
        if "img_size" not in settings:
            raise
        height, width = settings["img_size"]
        raise UserError(
            f"Expected `model.name` to take images of {height}×{width}, but '{full_name}' takes "
            "one size only"
        ) from error


def _normalization(backbone: nn.Module, in_chans: int) -> Normalize:
    published = resolve_model_data_config(backbone)
    mean, std = published["mean"], published["std"]
    if len(mean) != in_chans:
        raise UserError(
            f"Expected `model.normalize=own` to find the mean of {in_chans} channels, but timm "
            f"holds {len(mean)} of them; set model.normalize=none"
        )
    return Normalize(mean, std)
