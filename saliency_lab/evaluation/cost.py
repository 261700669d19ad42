"""What a computation costs: passes through the model, seconds, memory."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class CostMeter:
    """Counts images that go forward and backward through models, and the time of each stage.

    Used as a context; the models' own `forward` and modules stay as they are, so that whatever
    looks into a model (hooks, layer names) sees the same model.
    """

    def __init__(self, *models: nn.Module) -> None:
        self.models = list(dict.fromkeys(models))
        self.forwards = self.backwards = 0
        self._stages: dict[str, dict[str, float]] = {}
        self._since = {"seconds": 0.0, "forwards": 0.0, "backwards": 0.0}

    def __enter__(self) -> CostMeter:
        self._hooks = [model.register_forward_hook(self._count) for model in self.models]
        parameters = (p.device for model in self.models for p in model.parameters())
        self._device = next(parameters, torch.device("cpu"))
        _forget_peak(self._device)
        self._since = self._now()
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def mark(self, stage: str) -> None:
        """Everything since the last mark belongs to this stage."""
        now = self._now()
        self._stages[stage] = {name: now[name] - self._since[name] for name in now}
        self._since = now

    def totals(self, stage: str) -> dict[str, Any]:
        """Of a stage, images forward, images backward, seconds; and the peak memory in bytes.

        The peak is that of the process (on a GPU: of its tensors) since the context was entered.
        """
        return {stage: self._stages[stage], "peak_bytes": _peak_bytes(self._device)}

    def _now(self) -> dict[str, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return {
            "seconds": time.perf_counter(),
            "forwards": float(self.forwards),
            "backwards": float(self.backwards),
        }

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        self.forwards += len(output)
        if output.requires_grad:
            output.register_hook(self._count_backward)
        return output

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


# Linux keeps a process's peak of resident memory and lets it be set back; other systems have the
# peak since the start alone.
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        with contextlib.suppress(PermissionError):
            _RESET.write_text(_RESET_PEAK, encoding="ascii")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        if peak:
            return int(peak[1]) * 1024
    # Kibibytes on most systems, bytes on macOS; since the process started.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
