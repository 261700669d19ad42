"""Which layer of a network Grad-CAM looks at, and what that layer computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.frozen import frozen, placed_images


def chosen_layer(model: nn.Module, images: Tensor, layer: str | None) -> str:
    """The name of the layer to look at.

    Without a name: the last one whose output has spatial extent before global pooling, found in a
    forward pass of the first image. Of modules that give the same tensor (a stage, its last block,
    that block's activation) it is the outermost. An output of 1×1 has no extent, so a network that
    shrinks a small image to one position is looked at one layer earlier.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W).
        layer: a dotted name among `model.named_modules()`, or None.

    Raises:
        UserError: no such layer, its output is no feature map (B, channels, h, w), or without a
            name no feature map is the last spatial output (tokens, channels last).
    """
    shapes = output_shapes(model, images[:1])
    size = images.shape[2:]
    if layer is None:
        extended = [(name, shape) for name, shape in shapes if _positions(shape, size) > 1]
        if extended and _is_feature_map(extended[-1][1], size):
            return extended[-1][0]
        found = f"{extended[-1][0]} with {extended[-1][1]}" if extended else "none"
        raise UserError(
            "Expected `layer` to be given, because the last spatial output of this model should be "
            f"a feature map (1, channels, h, w) but is {found}."
        )
    found_shapes = dict(shapes)
    if layer not in found_shapes:
        # What has the shape of the images themselves, a normalisation for one, shows no features.
        maps = [n for n, s in shapes if _is_feature_map(s, size) and s[1:] != images.shape[1:]]
        outer = [name for name in maps if name.count(".") < 2]
        raise unknown_choice("layer", layer, outer or maps or ["none: no layer gives feature maps"])
    if not _is_feature_map(found_shapes[layer], size):
        raise UserError(
            "Expected `layer` to name one with a feature map (1, channels, h, w), but got "
            f"'{layer}' with {found_shapes[layer]}."
        )
    return layer


def output_shapes(model: nn.Module, images: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Names and output shapes of the modules in the order in which they finish, the root left out.

    A module that runs several times appears with its last output, at its last place.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes.pop(name, None)
                shapes[name] = tuple(output.shape)

        return hook

    hooks = [
        module.register_forward_hook(note(name)) for name, module in model.named_modules() if name
    ]
    try:
        with torch.inference_mode(False), torch.no_grad(), frozen(model):
            model(placed_images(model, images).clone())
    finally:
        for hook in hooks:
            hook.remove()
    return list(shapes.items())


@contextmanager
def kept_output(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """What a layer computed in a forward pass inside the block: the last entry is the last call.

    The network goes on with a copy, because a later layer may work in place on what it gets.
    """
    kept: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept[:] = [output]
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()


def _positions(shape: tuple[int, ...], size: torch.Size) -> int:
    """Positions of an output (B, channels, h, w), (B, h, w, channels) or (B, tokens, channels)."""
    if len(shape) == 4:
        return shape[2] * shape[3] if _is_feature_map(shape, size) else shape[1] * shape[2]
    return shape[1] if len(shape) == 3 else 0


def _is_feature_map(shape: tuple[int, ...], size: torch.Size) -> bool:
    if len(shape) != 4:
        return False
    (height, width), (rows, columns) = size, shape[2:]
    # The sides keep their proportion up to rounding; channels-last outputs do not.
    return rows <= height and columns <= width and abs(rows * width - columns * height) <= max(size)
