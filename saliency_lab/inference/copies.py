"""Fast copies of a model for maps and scores, used only where they agree with it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saliency_lab.frozen import bare_copy, intact_logits, placed_images
from saliency_lab.inference.agreement import gradient_distance
from saliency_lab.inference.bfloat16 import bf16_model
from saliency_lab.inference.folding import folded_copy, packed_copy

# How far the logits of a copy may be from the model's, relative to the largest logit above 1.
_AGREEMENT = 1e-4
# How far its gradients may be, relative to their norm. Rounding gives about 1e-6, and up to 1e-2
# where it decides for a ReLU or a max-pool. What tracing does not see (a backward of one's own,
# no_grad in the model, hooks of the backward) changes most of a gradient.
_GRADIENTS = 0.1
# What tracing, folding and packing raise on models that they cannot follow.
UNABLE = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    KeyError,
    AssertionError,
)


def fast_copy(model: nn.Module, sample: Tensor, precision: str) -> tuple[nn.Module, nn.Module]:
    """The folded copy and the one to run, once they have been seen to agree with the model.

    Args:
        model: from images (B, C, H, W) to logits (B, K); left unchanged.
        sample: images (B, C, H, W) in [0, 1] in the model's place, on which the copy is tried.
        precision: of the copy to run; `bf16` computes in bfloat16.

    Raises:
        ValueError: a copy whose logits or input gradients are not the model's, or a model of
            TorchScript, which is whole already.
        One of `UNABLE`: a model that cannot be traced, folded or packed.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError("TorchScript has no layers to fold")
    with float32_by("ieee"):
        expected = intact_logits(model, sample)
        folded = folded_copy(model)
        packed = packed_copy(folded, sample) if sample.device.type == "cpu" else folded
        _check(packed, model, sample, expected)
    return folded, bf16_model(folded, sample) if precision == "bf16" else packed


def own_copy(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of the model with its layers, or the model itself where none answers as it does.

    Args:
        model: from images (B, C, H, W) to logits (B, K); left unchanged.
        images: (B, C, H, W) in [0, 1]; the copy is tried on two of them.
    """
    with torch.inference_mode(False), float32_by("ieee"):
        sample = placed_images(model, images[:2]).clone()
        expected = intact_logits(model, sample)
        try:
            copied = bare_copy(model)
            _check(copied, model, sample, expected)
        except UNABLE:
            return model
    return copied


@contextlib.contextmanager
def float32_by(precision: Literal["tf32", "ieee"]) -> Iterator[None]:
    """How GPUs multiply in float32, for a while.

    A switch that was never set reads as the one above it. Written back, that would become its own
    and no longer follow what the process sets later; so CUDA's common switch is set, and below it
    only those that do not follow.
    """
    backends: Any = torch.backends
    common, found = backends.cudnn, backends.cudnn.fp32_precision
    own = [(common, "none" if found == backends.fp32_precision else found)]
    try:
        common.fp32_precision = precision
        for switch in (backends.cuda.matmul, backends.cudnn.conv):
            if switch.fp32_precision != precision:
                own.append((switch, switch.fp32_precision))
                switch.fp32_precision = precision
        yield
    finally:
        for switch, value in own:
            switch.fp32_precision = value


def _check(copy: nn.Module, model: nn.Module, sample: Tensor, expected: Tensor) -> None:
    """Refuse a copy whose logits or input gradients are not the model's.

    Args:
        expected: the model's logits from before it was copied; one that counts its calls differs.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # a graph that fails prints where, and raises
        found = intact_logits(copy, sample)
    scale = max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max()) / scale
    if not difference <= _AGREEMENT:
        raise ValueError(f"its logits differ by {difference:.1e} from the model's")
    distance = gradient_distance(copy, model, sample)
    if not distance <= _GRADIENTS:
        raise ValueError(f"its gradients differ by {distance:.0%} from the model's")
