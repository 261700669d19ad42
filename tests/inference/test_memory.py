"""Batches that fit, and work that is cut smaller when it does not."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import torch
from torch import nn

from saliency_lab.inference.convolution import FrozenConv
from saliency_lab.inference.engine import Engine
from saliency_lab.inference.memory import (
    PartSize,
    fitting_batch,
    free_bytes,
    image_bytes,
    is_out_of_memory,
)

CPU = torch.device("cpu")


def full_above(most: int, seen: list[int], message: str = "CUDA out of memory"):
    def compute(rows: slice) -> list[int]:
        seen.append(rows.stop - rows.start)
        if rows.stop - rows.start > most:
            raise RuntimeError(message)
        return list(range(rows.start, rows.stop))

    return compute


def test_work_is_halved_until_it_fits_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []
    size = PartSize("maps", 16)
    with caplog.at_level(logging.WARNING):
        parts = size.parts(full_above(5, seen), 21)
    assert [row for part in parts for row in part] == list(range(21))
    assert seen == [16, 8, 4, 4, 4, 4, 4, 1]
    assert size.size == 4
    assert caplog.messages == [
        f"out of memory: retrying maps with batches of {n} images" for n in (8, 4)
    ]


def test_down_to_one_image_and_no_further() -> None:
    seen: list[int] = []
    assert len(PartSize("scores", 5).parts(full_above(1, seen), 3)) == 3
    assert seen == [3, 1, 1, 1]
    with pytest.raises(RuntimeError, match="out of memory"):
        PartSize("scores", 5).parts(full_above(0, seen), 3)


def test_other_errors_are_not_retried() -> None:
    seen: list[int] = []
    with pytest.raises(RuntimeError, match="shapes"):
        PartSize("scores", 5).parts(full_above(1, seen, "shapes cannot be multiplied"), 3)
    assert seen == [3]


def test_a_cpu_that_is_really_full_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("expected 3 channels"))


def test_bytes_of_an_image_by_hand() -> None:
    """4 → 8 channels of 10×10: an output of 3200 bytes; a ReLU keeps its output, also 3200."""
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU()).requires_grad_(False)
    found = image_bytes(model, torch.rand(1, 4, 10, 10))
    assert found["scores"] == 3 * 3200
    # The convolution's gradient keeps its input's shape only, by keeping the input: 1600.
    assert found["maps"] == 3 * 3200 + 3200 + 1600


def test_batches_by_hand() -> None:
    assert fitting_batch(1000, 64_000, 32 * 32, CPU) == 32
    assert fitting_batch(1000, 10**12, 32 * 32, CPU) == 256
    assert fitting_batch(1000, 10**12, 224 * 224, CPU) == 8
    assert fitting_batch(10**9, 10**6, 32 * 32, CPU) == 1
    assert fitting_batch(1000, 10**12, 32 * 32, torch.device("cuda")) == 16384
    # A pass on the CPU keeps to half a GB, but takes the fewest images that are worth it.
    assert fitting_batch(2**24, 10**12, 32 * 32, CPU) == 32
    assert fitting_batch(2**28, 10**12, 32 * 32, CPU) == 8
    assert fitting_batch(2**24, 10**12, 32 * 32, torch.device("cuda")) == 16384
    assert free_bytes(CPU) > 0


@pytest.mark.onednn
def test_a_prepared_model_is_freed_with_its_last_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    prepared = Engine().prepare(model, torch.rand(2, 3, 8, 8))
    assert prepared.reason is None
    layers = [weakref.ref(m) for m in prepared.model.modules() if isinstance(m, FrozenConv)]
    assert layers
    del prepared
    gc.collect()
    assert [layer() for layer in layers] == [None]
