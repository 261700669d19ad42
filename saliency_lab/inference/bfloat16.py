"""The copy of a model in bfloat16 that maps and scores are computed with, and what it costs."""

from __future__ import annotations

import logging

from torch import Tensor, nn
from torch.fx import GraphModule

from saliency_lab.inference.agreement import target_gradient
from saliency_lab.inference.attention import with_quick_attention
from saliency_lab.inference.folding import packed_copy

log = logging.getLogger(__name__)


def bf16_model(folded: GraphModule, sample: Tensor) -> nn.Module:
    """A folded model in bfloat16; on the CPU with an attention whose gradient is quick, and with
    packed convolutions where oneDNN has them.

    Args:
        folded: a folded copy, which is changed.
        sample: images (B, C, H, W) that copies are tried on, on the model's device.
    """
    low = folded.bfloat16()
    if sample.device.type != "cpu":
        return low
    low = with_quick_attention(low)
    try:
        packed = packed_copy(low, sample.bfloat16())
        target_gradient(packed, sample[:1])
    except RuntimeError as error:
        log.info("bfloat16 without packed convolutions: %s", str(error).strip().splitlines()[0])
        return low
    return packed
