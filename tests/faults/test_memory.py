"""A model that has memory for a few images at a time, as a device of that size would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

MODEL = """
import os

import torch
from torch import nn


class Small(nn.Module):
    def forward(self, x):
        if len(x) > int(os.environ.get("FITS", "1000000")):
            if os.environ.get("ON_CPU"):
                torch.empty(1 << 60, dtype=torch.uint8)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return x


def small(num_classes):
    return nn.Sequential(
        Small(), nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(128, num_classes),
    )
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    from saliency_lab.data.drawing import CLASSES, SIDE

    (tmp_path / "small_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "small_model", raising=False)
    import small_model

    torch.manual_seed(0)
    network = small_model.small(len(CLASSES))
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    facts = {
        "model": {"_target_": "small_model.small", "name": "small"},
        "data": "shapes",
        "classes": list(CLASSES),
        "input_shape": [3, SIDE, SIDE],
        "fingerprint": "",
    }
    torch.save({"state_dict": state, "facts": facts}, tmp_path / "small.ckpt")
    return (
        "evaluate", "method=paper", "ckpt=small.ckpt", "data.test_images=12",
        "data.train_images=20", "evaluator.batch_size=6", "trainer=cpu", "trainer.threads=1",
        "logger=none", "engine.frozen_copy=false",
    )  # fmt: skip


@pytest.mark.parametrize(("fits", "on_cpu"), [(4, ""), (2, "yes")])
def test_a_batch_that_does_not_fit_is_split(
    fits: int, on_cpu: str, words, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*words, "output_root=roomy").code == 0
    monkeypatch.setenv("FITS", str(fits))
    monkeypatch.setenv("ON_CPU", on_cpu)
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    told = [line for line in outcome.err.splitlines() if "retrying" in line]
    halves = {4: 3, 2: 1}  # of a block of six
    assert f"out of memory: retrying maps with batches of {halves[fits]} images" in told
    sizes = [int(line.removesuffix(" images").split()[-1]) for line in told if "scores" in line]
    assert sizes, told
    # Kept: it gets smaller until it fits, and is not tried again for the second block.
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] <= fits
    frames = [
        pd.read_parquet(next((tmp_path / root).glob("evaluate/*/*/*/*/deletion.parquet")))
        for root in ("roomy", "outputs")
    ]
    np.testing.assert_array_equal(frames[0]["agrees"], frames[1]["agrees"])
    np.testing.assert_allclose(frames[0]["logit"], frames[1]["logit"], rtol=1e-4, atol=1e-5)


def test_not_even_one_image_fits(words, command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITS", "0")
    outcome = command(*words)
    assert outcome.code == 2
    assert "CUDA out of memory" in outcome.err
