"""How the tokens of a transformer lie on the image, and which of them the logits are read from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency_lab.errors import UserError


@dataclass(frozen=True)
class TokenLayout:
    """Prefix tokens (class, distillation, register), then patches row by row."""

    prefix: int
    grid: tuple[int, int]
    readout: Tensor
    """How much of the answer is read from each token, shape (N,), sums to 1."""

    def pixels(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """The patches' part of values (B, N) of all tokens, bilinear on (B, 1, H, W)."""
        patches = tokens[:, self.prefix :].unflatten(1, self.grid)[:, None]
        return F.interpolate(patches, (size[0], size[1]), mode="bilinear", align_corners=False)


def token_grid(patches: int, size: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of that many patches of an image (H, W); None if they fill no grid."""
    if patches <= 0:
        return None
    side = math.sqrt(size[0] * size[1] / patches)
    grid = round(size[0] / side), round(size[1] / side)
    return grid if grid[0] * grid[1] == patches else None


def token_layout(model: nn.Module, block: str, weights: Tensor, size: Sequence[int]) -> TokenLayout:
    """The layout of the tokens that an attention module of a transformer sees.

    Args:
        model: has, around that module, one with timm's `num_prefix_tokens` and `global_pool`, or
            with torchvision's `class_token`, which is what is read there.
        block: dotted name of the attention module.
        weights: its attention, shape (B, heads, N, N).
        size: (H, W) of the images.

    Raises:
        UserError: the model does not say how its tokens lie or how they are pooled, or they fill
            no grid.
    """
    owner = _token_owner(model, block)
    if owner is None:
        raise UserError(
            "Expected `model` to say how many tokens come before the patches (num_prefix_tokens, "
            "as timm's transformers do, or a class_token, as torchvision's), but got "
            f"{type(model).__name__} without it."
        )
    count, prefix = weights.shape[-1], _prefix(owner)
    grid = token_grid(count - prefix, size)
    if grid is None:
        raise UserError(
            f"Expected the tokens of `model` to be {prefix} and a grid over {size[0]}×{size[1]} "
            f"pixels, but got {count}."
        )
    readout = torch.zeros(count, dtype=weights.dtype, device=weights.device)
    pooling = getattr(owner, "global_pool", None if _is_timms(owner) else "token")
    if pooling == "token":
        # A distilled transformer's answer is the mean of two heads on two tokens.
        readout[: 2 if hasattr(owner, "head_dist") else 1] = 1
    elif pooling == "avg":
        readout[0 if getattr(owner, "pool_include_prefix", False) else prefix :] = 1
    else:
        raise UserError(
            "Expected `model` to pool its tokens by the class token or the mean (timm's "
            f"global_pool token or avg), but got {pooling!r} in {type(owner).__name__}."
        )
    return TokenLayout(prefix, grid, readout / readout.sum())


def prefix_tokens(model: nn.Module, name: str) -> int:
    """Class, distillation and register tokens before the patches that a module sees; 0 if the
    model does not say.
    """
    owner = _token_owner(model, name)
    return 0 if owner is None else _prefix(owner)


def _token_owner(model: nn.Module, name: str) -> Any:
    """The closest module around a module that knows its tokens, or None."""
    while name:
        name = name.rpartition(".")[0]
        owner = model.get_submodule(name)
        if _is_timms(owner) or isinstance(getattr(owner, "class_token", None), nn.Parameter):
            return owner
    return None


def _is_timms(owner: Any) -> bool:
    return hasattr(owner, "num_prefix_tokens")


def _prefix(owner: Any) -> int:
    return int(owner.num_prefix_tokens) if _is_timms(owner) else 1


class TokenField:
    """A class field with one value per token: the same in every channel of a pixel.

    Args:
        logits: shape (B, K).
        layout: where the tokens lie.
        images: shape (B, C, H, W).
        tokens: from classes (B,) to the attribution of those logits to each token, (B, N).
    """

    def __init__(
        self,
        logits: Tensor,
        layout: TokenLayout,
        images: Tensor,
        tokens: Callable[[Tensor], Tensor],
    ) -> None:
        self.logits = logits.detach().to(images.device)
        self._layout, self._tokens = layout, tokens
        self._shape, self._place = images.shape, (images.device, images.dtype)

    def of(self, classes: Tensor) -> Tensor:
        """Attribution of logit `classes[b]` of image b, shape (B, C, H, W)."""
        pixels = self._layout.pixels(self._tokens(classes), self._shape[2:])
        return pixels.to(*self._place).expand(self._shape)
