"""How fast a network is on this machine: one short training step and one batch of forwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from saliency_lab.config.binding import built
from saliency_lab.models.construction import built_network

ENOUGH = 0.3
"""Seconds by which a measured batch is to take longer than the smallest, whatever both cost."""
_SMALL = 2
_REPEATS = 3


@dataclass(frozen=True)
class Rates:
    """Seconds for one image: a training step's share, and a forward in evaluation."""

    step: float
    forward: float


def measured_rates(config: Mapping[str, Any], classes: int, shape: tuple[int, int, int]) -> Rates:
    """The rates of the network that a training's configuration describes, on random images.

    Weights are not loaded, as they change no time, and the batch is as small as it may be.

    Args:
        config: resolved; its `model`, `optimizer`, `trainer` and `data.batch_size` are used.
        classes: number of logits.
        shape: (C, H, W) of the images.

    Raises:
        UserError: the model does not fit the images, or an optimizer its signature.
    """
    trainer, threads = config["trainer"], torch.get_num_threads()
    on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    state = torch.get_rng_state()
    try:
        if isinstance(trainer["threads"], int):
            torch.set_num_threads(trainer["threads"])
        network = built_network(config["model"], classes, shape, load_weights=False)
        network = network.to(device).to(memory_format=torch.channels_last)
        low = str(trainer["precision"]).endswith("mixed")
        return Rates(
            step=_per_image(_step(config, network, classes, low), config, shape, device),
            forward=_per_image(_forward(network), config, shape, device),
        )
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def _step(
    config: Mapping[str, Any], network: torch.nn.Module, classes: int, low: bool
) -> Callable[[torch.Tensor], object]:
    optimizer = built(config["optimizer"], "optimizer", params=[
        parameter for parameter in network.parameters() if parameter.requires_grad
    ])  # fmt: skip

    def step(images: torch.Tensor) -> None:
        network.train()
        kind = images.device.type
        with torch.autocast(kind, torch.bfloat16) if low else nullcontext():
            labels = torch.arange(len(images), device=images.device) % classes
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _forward(network: torch.nn.Module) -> Callable[[torch.Tensor], object]:
    def forward(images: torch.Tensor) -> None:
        network.eval()
        with torch.inference_mode():
            network(images)

    return forward


def _per_image(
    work: Callable[[torch.Tensor], object],
    config: Mapping[str, Any],
    shape: tuple[int, int, int],
    device: torch.device,
) -> float:
    """Seconds for one image of a whole batch, from a small one and one that takes longer."""
    whole = int(config["data"]["batch_size"])
    small = count = min(_SMALL, whole)
    images = torch.rand(whole, *shape, device=device).contiguous(memory_format=torch.channels_last)
    first = now = _fastest(work, images[:small])
    while now - first < ENOUGH and count < whole:
        count = min(2 * count, whole)
        now = _fastest(work, images[:count])
    return whole_batch(first, now, small, count, whole) / whole


def whole_batch(first: float, now: float, small: int, count: int, whole: int) -> float:
    """Seconds of a batch of `whole`, where one of `small` took `first` and one of `count` `now`.

    An optimizer's step costs the same for any batch; what is left grows with the images.
    """
    if count == small or now <= first:  # nothing to compare, or another program was at work
        return now * whole / count
    each = (now - first) / (count - small)
    return max(now - each * count, 0.0) + each * whole


def _fastest(work: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    """Of a few: the first of a size finds kernels and memory, and others use the machine."""
    return min(_seconds(work, images) for _ in range(_REPEATS))


def _seconds(work: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    start = time.perf_counter()
    work(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
