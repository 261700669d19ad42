"""Which layer of a network Grad-CAM looks at, and what that layer computes where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.tokens import prefix_tokens, token_grid
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.frozen import frozen, placed_images

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def chosen_layer(model: nn.Module, images: Tensor, layer: str | None) -> str:
    """The name of the layer to look at.

    Without a name: the last one whose output has spatial extent before global pooling, found in a
    forward pass of the first image. Of modules that give the same tensor (a stage, its last block,
    that block's activation) it is the outermost. An output of 1×1 has no extent, so a network that
    shrinks a small image to one position is looked at one layer earlier, also where an adaptive
    pool repeats that position (torchvision's VGG). Where the last spatial
    output is a transformer's tokens it is `norm1` of the last block: what comes later may be read
    at the class token alone, so that the patches have no gradient.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W).
        layer: a dotted name among `model.named_modules()`, or None.

    Raises:
        UserError: no such layer, its output has no positions that lie on the image, or without a
            name none is found.
    """
    shapes = output_shapes(model, images[:1])
    size = images.shape[2:]
    if layer is None:
        extended = [(name, shape) for name, shape in shapes if _positions(shape, size) > 1]
        last = extended[-1] if extended else None
        if last and len(last[1]) == 3:
            normed = [one for one in extended if one[0].endswith(".norm1") and len(one[1]) == 3]
            last = normed[-1] if normed else None
        if last and _lies_on_image(model, *last, size):
            return last[0]
        found = f"{extended[-1][0]} with {extended[-1][1]}" if extended else "none"
        raise UserError(
            "Expected `layer` to be given, because the last spatial output of this model should be "
            "a feature map (1, channels, h, w) or (1, h, w, channels), or tokens of blocks with a "
            f"norm1, but is {found}."
        )
    found_shapes = dict(shapes)
    if layer not in found_shapes:
        # What has the shape of the images themselves, a normalisation for one, shows no features.
        maps = [n for n, s in shapes if _is_feature_map(s, size) and s[1:] != images.shape[1:]]
        outer = [name for name in maps if name.count(".") < 2]
        raise unknown_choice("layer", layer, outer or maps or ["none: no layer gives feature maps"])
    if not _lies_on_image(model, layer, found_shapes[layer], size):
        raise UserError(
            "Expected `layer` to name one with a feature map (1, channels, h, w) or "
            f"(1, h, w, channels) or with tokens (1, n, channels), but got '{layer}' with "
            f"{found_shapes[layer]}."
        )
    return layer


def feature_map(model: nn.Module, layer: str, output: Tensor, size: torch.Size) -> Tensor:
    """The output of a layer that `chosen_layer` gave, or its gradient, as (B, channels, h, w).

    Of tokens (B, N, channels) the prefix is left out and the patches are laid on their grid.
    """
    if _is_feature_map(tuple(output.shape), size):
        return output
    if output.dim() == 4:
        return output.permute(0, 3, 1, 2)
    prefix = prefix_tokens(model, layer)
    grid = token_grid(output.shape[1] - prefix, size)
    return output[:, prefix:].mT.unflatten(2, grid or (1, -1))


def output_shapes(model: nn.Module, images: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Names and output shapes of the modules in the order in which they finish, the root left out.

    A module that runs several times appears with its last output, at its last place. Pools that
    only repeat what they get, to reach a larger size, are left out.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            repeats = isinstance(module, _POOLS) and output.numel() > inputs[0].numel()
            if isinstance(output, Tensor) and not repeats:
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


def _lies_on_image(model: nn.Module, name: str, shape: tuple[int, ...], size: torch.Size) -> bool:
    if len(shape) == 3:
        return token_grid(shape[1] - prefix_tokens(model, name), size) is not None
    return _is_feature_map(shape, size) or (
        len(shape) == 4 and _is_feature_map((shape[0], shape[3], *shape[1:3]), size)
    )


def _is_feature_map(shape: tuple[int, ...], size: torch.Size) -> bool:
    if len(shape) != 4:
        return False
    (height, width), (rows, columns) = size, shape[2:]
    # The sides keep their proportion up to rounding; channels-last outputs do not.
    return rows <= height and columns <= width and abs(rows * width - columns * height) <= max(size)
