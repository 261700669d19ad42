"""Batch sizes from the memory that is there, and work that is cut smaller when it does not fit."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Pixels per batch beyond which more images no longer make a pass faster: the caches of a CPU are
# full long before its memory is, and a GPU has all its units busy.
_USEFUL_PIXELS = {"cpu": 2**18, "cuda": 2**24}
# Bytes per batch beyond which a CPU's operating system maps fresh pages for every pass, which takes
# as long as a part of the arithmetic: measured 5 to 16 ms beside 17 for an image of a ViT whose
# batch took 2 GB, and nothing below half a GB.
_USEFUL_BYTES = 2**29
# The useful number is not below this, so that the weights are read for more than one image.
_FEWEST = 8

_FULL = ("out of memory", "can't allocate memory", "not enough memory")


def free_bytes(device: torch.device) -> int:
    """Memory that this process could still use on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    return int(psutil.virtual_memory().available)


def image_bytes(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Memory that one more image (1, C, H, W) takes, by stage.

    `scores` is a forward without a graph: the largest activation, beside its input and output.
    `maps` is a forward that keeps what a backward needs, and the gradients on the way back.
    """
    largest = _Largest()
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        # An output that keeps itself would keep the whole graph, and with it the model, for ever.
        return tensor.detach()

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.no_grad(), largest:
        model(image.clone())
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        # A leaf takes no change in place, which the model may begin with.
        model(image.detach().requires_grad_(True).clone())
    graph = sum(size for place, size in kept.items() if place not in weights)
    passing = 3 * max(largest.bytes, image.nbytes)
    return {"scores": passing, "maps": graph + passing}


def useful_batch(pixels: int, device: torch.device) -> int:
    """Images of so many pixels (H · W) per batch beyond which a pass no longer gets faster."""
    return max(_FEWEST, _USEFUL_PIXELS.get(device.type, _USEFUL_PIXELS["cpu"]) // max(pixels, 1))


def fitting_batch(per_image: int, free: int, pixels: int, device: torch.device) -> int:
    """Images per batch that fit into half of the free memory and still make a pass faster."""
    useful = useful_batch(pixels, device)
    if device.type == "cpu":
        useful = min(useful, max(_FEWEST, _USEFUL_BYTES // max(per_image, 1)))
    return max(1, min(useful, free // 2 // max(per_image, 1)))


class PartSize:
    """How many images a stage takes at once: halved, and kept so, when memory runs out."""

    def __init__(self, stage: str, size: int) -> None:
        self.stage = stage
        self.size = size

    def parts(self, compute: Callable[[slice], Result], count: int) -> list[Result]:
        """`compute` of consecutive slices of 0 ... count − 1, each at most `size` long.

        Raises:
            The device's own error if not even one image fits.
        """
        return list(self._parts(compute, count))

    def _parts(self, compute: Callable[[slice], Result], count: int) -> Iterator[Result]:
        start = 0
        while start < count:
            rows = slice(start, min(start + self.size, count))
            try:
                result = compute(rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or rows.stop - start == 1:
                    raise
            else:
                start = rows.stop
                yield result
                continue
            # Outside the handler, whose traceback keeps the tensors that were too many alive.
            self.size = max(1, (rows.stop - start) // 2)
            log.warning(
                "out of memory: retrying %s with batches of %d images", self.stage, self.size
            )
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the CPU's or the GPU's memory is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in _FULL)


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self.bytes = max(self.bytes, tensor.nbytes)
        return found
