"""Decide cheaply, verify the close ones: low precision where the answer cannot be in doubt."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.frozen import model_place, unshared
from saliency_lab.inference.bfloat16 import bf16_model
from saliency_lab.inference.folding import folded_copy

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]

# After calibration every so many batches are run in both precisions, to see that the threshold
# holds on other fills and methods than those it was found on.
_AUDIT_EVERY = 32


def int8_copy(model: nn.Module, sample: Tensor) -> nn.Module:
    """A copy quantised to eight bits, for the CPU; `sample` (n, C, H, W) sets the ranges.

    Raises:
        UserError: this machine or this version of PyTorch has no int8 kernels.
        What tracing raises for a model whose path depends on its input.
    """
    from torch.ao.quantization import (
        MinMaxObserver,
        QConfig,
        default_per_channel_weight_observer,
        get_default_qconfig_mapping,
    )
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    if sample.device.type != "cpu" or "onednn" not in torch.backends.quantized.supported_engines:
        raise UserError("Expected `engine.screen` int8 on a CPU with oneDNN, but there is none.")
    # Quantised layers are made like new ones, which draw their first weights from the process.
    fork = torch.random.fork_rng(devices=[])
    with fork, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PyTorch announces that this module will move
        # The whole range: a histogram's tighter one clips a few numbers, and a few large errors
        # set the threshold; it would have twice as many images repeated.
        ranges = MinMaxObserver.with_args(dtype=torch.quint8)
        chosen = get_default_qconfig_mapping("onednn")
        chosen.set_global(QConfig(ranges, default_per_channel_weight_observer))
        linear = [name for name, layer in model.named_modules() if type(layer) is nn.Linear]
        if linear:  # logits in eight bits would have margins in steps of a fifth
            chosen.set_module_name(linear[-1], None)
        observed = prepare_fx(folded_copy(model), chosen, (sample,))
        for part in sample.split(32):
            observed(part.clone())  # the model may work in place
        return _WithEngine(convert_fx(observed))


class _WithEngine(nn.Module):
    """Runs a quantised model with oneDNN's kernels, and puts the process's choice back."""

    def __init__(self, quantised: nn.Module) -> None:
        super().__init__()
        self.quantised = quantised

    def forward(self, images: Tensor) -> Tensor:
        chosen = torch.backends.quantized.engine
        torch.backends.quantized.engine = "onednn"
        try:
            return self.quantised(images.clone())  # the model may work in place
        finally:
            torch.backends.quantized.engine = chosen


def bf16_copy(model: nn.Module, sample: Tensor) -> nn.Module:
    """A folded copy in bfloat16 that takes and gives float32."""
    return _Bf16(bf16_model(folded_copy(model), sample))


class _Bf16(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        placed = images.to(model_place(self.model, images)[0], torch.bfloat16)
        placed = unshared(placed.contiguous(memory_format=torch.channels_last), images)
        return self.model(placed).float().to(images.device)


def cheap_copy(model: nn.Module, kind: Literal["int8", "bf16"], sample: Tensor) -> nn.Module:
    """The low-precision copy for a kind of screen."""
    return int8_copy(model, sample) if kind == "int8" else bf16_copy(model, sample)


class Screen:
    """A forward that answers in low precision and repeats in full precision what was close.

    An image is close when the margin between its two highest logits is below a threshold. The
    first images, and some now and then, are run in both precisions; the threshold is the lowest
    that leaves at most `tolerance` of their decisions different. If that does not save time, the
    screen turns itself off and says so.

    Logits of images that were not repeated are those of low precision: their argmax is what the
    screen vouches for, their probabilities are approximate.

    Args:
        cheap: low precision, images to float32 logits.
        exact: full precision.
        calibration: images to run in both before the first decision.
        tolerance: share of decisions that may differ from full precision's.
    """

    def __init__(
        self, cheap: Forward, exact: Forward, calibration: int = 2048, tolerance: float = 0.001
    ) -> None:
        self._cheap, self._exact = cheap, exact
        self._calibration, self._tolerance = calibration, tolerance
        self._wrong_margins: list[float] = []
        self.active = True
        self.threshold = self._lowest = 0.0
        self._batches = self._compared = self._screened = self._repeated = 0
        self._missed_before = 0
        self._seconds = {"cheap": math.inf, "exact": math.inf}

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, K), float32."""
        if not self.active:
            return self._exact(images)
        self._batches += 1
        if self._compared < self._calibration or self._batches % _AUDIT_EVERY == 0:
            return self._both(images)
        logits = self._cheap(images)
        close = (_margins(logits) < self.threshold).nonzero().flatten()
        self._screened += len(images)
        self._repeated += len(close)
        if len(close):
            logits[close] = self._exact(images[close])
        return logits

    def report(self) -> dict[str, float | bool]:
        """Whether it is on, its threshold, the share repeated, and the agreement it reaches.

        `agreement` is measured on the images that were run in both precisions: a decision agrees
        if low precision had it right or its margin is below the threshold.
        """
        missed = self._missed_before + sum(m >= self.threshold for m in self._wrong_margins)
        return {
            "active": self.active,
            "calibrated": self._compared >= self._calibration,
            "threshold": self.threshold,
            "repeated": self._repeated / max(self._screened, 1),
            "screened": self._screened,
            "compared": self._compared,
            "agreement": 1 - missed / max(self._compared, 1),
        }

    def resume(self, report: Mapping[str, Any]) -> None:
        """Go on as the screen that gave this report: decide as it did, and count on from it.

        Nothing changes where that screen had not finished its calibration.
        """
        if report.get("calibrated"):
            self.active, self._lowest = bool(report["active"]), float(report["threshold"])
            self.threshold, self._calibration = self._lowest, 0
            self._compared, self._screened = int(report["compared"]), int(report["screened"])
            self._repeated = round(report["repeated"] * self._screened)
            self._missed_before = round((1 - report["agreement"]) * self._compared)

    def _both(self, images: Tensor) -> Tensor:
        calibrating = self._compared < self._calibration
        logits = self._timed("cheap", self._cheap, images)
        exact = self._timed("exact", self._exact, images)
        margins = _margins(logits)
        wrong = logits.argmax(1) != exact.argmax(1)
        self._compared += len(images)
        self._wrong_margins += margins[wrong].tolist()
        self._wrong_margins.sort(reverse=True)
        allowed = max(0, int(self._tolerance * self._compared) - self._missed_before)
        if allowed < len(self._wrong_margins):
            # The next number of float32, in which margins are compared with it.
            found = np.nextafter(np.float32(self._wrong_margins[allowed]), np.float32(np.inf))
            self.threshold = max(self._lowest, float(found))
        if calibrating and self._compared >= self._calibration:
            self._decide(float((margins < self.threshold).float().mean()))
        return exact

    def _decide(self, repeated: float) -> None:
        # Of each side the fastest batch: a machine that is busy for a while decides as a quiet one.
        share = self._seconds["cheap"] / max(self._seconds["exact"], 1e-12) + repeated
        self.active = share < 0.9
        log.info(
            "screen %s: low precision and %.1f%% repeats take %.0f%% of full precision's time",
            "on" if self.active else "off, it does not pay here",
            100 * repeated,
            100 * share,
        )

    def _timed(self, kind: str, forward: Forward, images: Tensor) -> Tensor:
        wait = torch.cuda.synchronize if images.is_cuda else lambda: None
        wait()
        start = time.perf_counter()
        logits = forward(images)
        wait()
        taken = (time.perf_counter() - start) / max(len(images), 1)
        self._seconds[kind] = min(self._seconds[kind], taken)
        return logits


def _margins(logits: Tensor) -> Tensor:
    """The distance between the two highest logits; infinite where there is one class only."""
    if logits.shape[1] == 1:
        return torch.full_like(logits[:, 0], torch.inf)
    best, second = logits.topk(2, dim=1).values.unbind(1)
    return best - second


def masked_sample(images: Tensor, limit: int = 256) -> Tensor:
    """Images like those of deletion curves: intact, and with random pixels black or white.

    The masks come from a stream of their own, so the process's random state is not touched.
    """
    images = images[: max(1, limit // 4)]
    stream = torch.Generator().manual_seed(0)
    height, width = images.shape[2:]
    drawn = torch.rand(2, len(images), 1, height, width, generator=stream)
    shares = torch.rand(2, len(images), 1, 1, 1, generator=stream)
    gone = (drawn < shares).to(images.device)
    return torch.cat([images, images.masked_fill(gone[0], 0), images.masked_fill(gone[1], 1)])
