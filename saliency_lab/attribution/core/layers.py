"""Which layer of a network Grad-CAM looks at, and what that layer computes where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.tokens import prefix_tokens, token_grid
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.frozen import frozen, placed_images

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)

# Layers whose output is channels-first whatever they get.
_CHANNELS_FIRST = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d,
    *_POOLS,
)  # fmt: skip


class _Output(NamedTuple):
    shape: tuple[int, ...]
    channels_last: bool | None
    """None while nothing speaks for either: it is then channels-first."""

    @property
    def extent(self) -> tuple[int, ...]:
        """Rows and columns of an output of four dimensions."""
        return self.shape[1:3] if self.channels_last else self.shape[2:]


def chosen_layer(model: nn.Module, images: Tensor, layer: str | None) -> str:
    """The name of the layer to look at.

    Without a name: the last one whose output has spatial extent before global pooling, found in a
    forward pass of the first image. Of modules that give the same tensor (a stage, its last block,
    that block's activation) it is the outermost. An output of 1×1 has no extent, so a network that
    shrinks a small image to one position is looked at one layer earlier, also where an adaptive
    pool repeats that position (torchvision's VGG). Where the last spatial
    output is a transformer's tokens it is `norm1` of the last block: what comes later may be read
    at the class token alone, so that the patches have no gradient. An output of four dimensions is
    (B, channels, h, w) unless the layers that made it say otherwise. What an attention has split
    into heads is left out: its sides are no positions.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W).
        layer: a dotted name among `model.named_modules()`, or None.

    Raises:
        UserError: no such layer, its output has no positions on the image, or without a name none
            is found.
    """
    outputs = _outputs(model, images[:1])
    size = images.shape[2:]
    heads = _split_into_heads(outputs)
    if layer is None:
        extended = [
            (name, found)
            for name, found in outputs.items()
            if _positions(found) > 1 and name not in heads
        ]
        last = extended[-1] if extended else None
        if last and len(last[1].shape) == 3:
            normed = [
                one for one in extended if one[0].endswith(".norm1") and len(one[1].shape) == 3
            ]
            last = normed[-1] if normed else None
        if last and _lies_on_image(model, *last, size):
            return last[0]
        shown = f"{extended[-1][0]} with {extended[-1][1].shape}" if extended else "none"
        raise UserError(
            "Expected `layer` to be given, because the last spatial output of this model should be "
            "a feature map (1, channels, h, w) or (1, h, w, channels), or tokens of blocks with a "
            f"norm1, but is {shown}."
        )
    if layer not in outputs:
        # What has the shape of the images themselves, a normalisation for one, shows no features.
        maps = [
            name
            for name, found in outputs.items()
            if len(found.shape) == 4
            and name not in heads
            and _lies_on_image(model, name, found, size)
            and found.shape[1:] != images.shape[1:]
        ]
        outer = [name for name in maps if name.count(".") < 2]
        raise unknown_choice("layer", layer, outer or maps or ["none: no layer gives feature maps"])
    # Of what the user names, an output of four dimensions is taken at its word.
    if len(outputs[layer].shape) != 4 and not _lies_on_image(model, layer, outputs[layer], size):
        raise UserError(
            "Expected `layer` to name one with a feature map (1, channels, h, w) or "
            f"(1, h, w, channels) or with tokens (1, n, channels), but got '{layer}' with "
            f"{outputs[layer].shape}."
        )
    return layer


def feature_map(
    model: nn.Module, layer: str, output: Tensor, size: torch.Size, *, channels_last: bool
) -> Tensor:
    """The output of a layer that `chosen_layer` gave, or its gradient, as (B, channels, h, w).

    Of tokens (B, N, channels) the prefix is left out and the patches are laid on their grid.
    """
    if output.dim() == 4:
        return output.permute(0, 3, 1, 2) if channels_last else output
    prefix = prefix_tokens(model, layer)
    grid = token_grid(output.shape[1] - prefix, size)
    return output[:, prefix:].mT.unflatten(2, grid or (1, -1))


def output_shapes(model: nn.Module, images: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Names and output shapes of the modules in the order in which they finish, the root left out.

    A module that runs several times appears with its last output, at its last place. Pools that
    only repeat what they get, to reach a larger size, are left out.
    """
    return [(name, found.shape) for name, found in _outputs(model, images).items()]


@contextmanager
def kept_output(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """What a layer computed in a forward pass inside the block: the last entry is the last call.

    The network goes on with a copy, because a later layer may work in place on what it gets.
    `is_channels_last` knows of what is kept how it lies.
    """
    kept: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept[:] = [output]
        copied = output.clone()
        _note(copied, _noted(output))
        return copied

    with _watched(model) as outputs:
        # After those that watch, so that the layout is known.
        handle = model.get_submodule(layer).register_forward_hook(hook)
        try:
            yield kept
        finally:
            handle.remove()
    if kept and layer in outputs:
        _note(kept[0], outputs[layer].channels_last)


def is_channels_last(output: Tensor) -> bool:
    """Whether what `kept_output` kept is (B, h, w, channels)."""
    return bool(_noted(output))


def _outputs(model: nn.Module, images: Tensor) -> dict[str, _Output]:
    with torch.inference_mode(False), torch.no_grad(), frozen(model), _watched(model) as outputs:
        model(placed_images(model, images).clone())
    return outputs


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, _Output]]:
    """Outputs of the modules by name, in the order in which they finish; see `output_shapes`."""
    outputs: dict[str, _Output] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            layout = _layout(module, given, output) if output.dim() == 4 else None
            _note(output, layout)
            if given is None or not _repeats(module, given, output):
                outputs.pop(name, None)
                outputs[name] = _Output(tuple(output.shape), layout)

        return hook

    hooks = [
        module.register_forward_hook(note(name)) for name, module in model.named_modules() if name
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
    known = {name: found for name, found in outputs.items() if found.channels_last is not None}
    shapes = {found.shape for found in known.values()}
    for name, found in outputs.items():
        if found.channels_last is None and found.shape in shapes:
            outputs[name] = _like_neighbours(name, found, known)


def _like_neighbours(name: str, output: _Output, known: dict[str, _Output]) -> _Output:
    """An output that lies as the last one of its shape in its module, or the closest around it."""
    while True:
        inside = f"{name}." if name else ""
        for inner, found in reversed(known.items()):
            if inner.startswith(inside) and found.shape == output.shape:
                return found
        name = name.rpartition(".")[0]


def _repeats(module: nn.Module, given: Tensor, output: Tensor) -> bool:
    return isinstance(module, _POOLS) and output.numel() > given.numel()


def _layout(module: nn.Module, given: Tensor | None, output: Tensor) -> bool | None:
    """Whether an output of four dimensions is channels-last; None: nothing speaks for either.

    Shapes alone do not tell: valid convolutions and pools along one axis change the proportions
    of what they get. What made the output does.

    Args:
        module: what gave the output.
        given: its first input.
        output: its output.
    """
    if _noted(output) is not None:  # another module's very output
        return _noted(output)
    if isinstance(module, _CHANNELS_FIRST):
        return False
    before = None if given is None else _noted(given)
    shape = output.shape
    if shape[-1] == _features(module):
        if shape[1] != shape[-1]:
            return True
        # Either side may be the channels. LayerNorm2d and its kind keep them first.
        return before if before is not None else not type(module).__name__.endswith("2d")
    if given is None or given.dim() != 4:
        return None
    turned = given.permute(0, 2, 3, 1)
    if not before and turned.shape == shape != given.shape and torch.equal(turned, output):
        return True
    return before if given.shape == shape else None


def _features(module: nn.Module) -> int | None:
    """Features of a layer that works along the last side; None for any other."""
    if isinstance(module, nn.Linear):
        return module.out_features
    normed: Any = getattr(module, "normalized_shape", ())
    return int(normed[0]) if len(normed) == 1 else None


def _note(output: Tensor, channels_last: bool | None) -> None:
    noted: Any = output
    noted.lies_channels_last = channels_last


def _noted(output: Tensor) -> bool | None:
    found: bool | None = getattr(output, "lies_channels_last", None)
    return found


def _positions(found: _Output) -> int:
    """Positions of an output (B, channels, h, w), (B, h, w, channels) or (B, tokens, channels)."""
    if len(found.shape) == 4:
        return math.prod(found.extent)
    return found.shape[1] if len(found.shape) == 3 else 0


def _split_into_heads(outputs: dict[str, _Output]) -> set[str]:
    """Names of outputs (B, heads, tokens, channels of a head), as the norms of keys give.

    They are told by the tokens (B, tokens, channels) that were computed before: a linear layer may
    give queries, keys and values at once, so their channels are a multiple of those of all heads.
    """
    found: set[str] = set()
    tokens: set[tuple[int, ...]] = set()
    for name, (shape, channels_last) in outputs.items():
        if len(shape) == 3:
            tokens.add(shape)
        # Not what convolutions and their kind say is a map, nor a map of a single column.
        if len(shape) != 4 or channels_last is False or shape[3] == 1:
            continue
        width = shape[1] * shape[3]
        if any(shape[2] == length and channels % width == 0 for _, length, channels in tokens):
            found.add(name)
    return found


def _lies_on_image(model: nn.Module, name: str, found: _Output, size: torch.Size) -> bool:
    if len(found.shape) == 3:
        return token_grid(found.shape[1] - prefix_tokens(model, name), size) is not None
    return len(found.shape) == 4 and all(
        side <= whole for side, whole in zip(found.extent, size, strict=True)
    )
