"""Side by side timing: the sides take turns, and each is judged by the median of its repeats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

# Processor time instead of wall time is right for one thread on a machine that others use too.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_chosen = ["wall"]


def choose_clock(name: str) -> None:
    """Measure by this clock from now on."""
    _chosen[0] = name


def medians(
    sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, float]:
    """Seconds of each side, measured in turns so that a busy moment hits all of them."""
    if warm_up:
        for side in sides.values():
            side()
    clock = CLOCKS[_chosen[0]]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            synchronize()
            start = clock()
            side()
            synchronize()
            seconds[name].append(clock() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
