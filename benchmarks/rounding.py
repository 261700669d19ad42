"""`python -m benchmarks.rounding --run RUN --data DIR`: does bfloat16 make another training?

At the end of a training with mixed precision: how far each batch's gradient is from that of
float32, next to how far the gradients of batches are from each other; and the accuracy with
statistics of batch norms that are taken in either precision.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.options import Options
from benchmarks.settling import accuracy, opened
from saliency_lab.data.batch import channels_last_pixels
from saliency_lab.data.module import ImageData
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.training.batch_norms import renew_statistics

_BATCHES = 5


def main() -> None:
    """Print gradients' distances and accuracies."""
    settings = _settings()
    _, data = opened(settings)
    source = Path(settings.ckpt or Path(settings.run) / "checkpoints" / "last.ckpt")
    network = load_classifier(source, "--ckpt").network
    _distances(copy.deepcopy(network), data)
    print(f"as it ended: test {accuracy(network, data, 'test'):.3f}", flush=True)
    for name in ("float32", "bfloat16"):
        renewed = copy.deepcopy(network)
        renew_statistics(renewed, data, settings.images, _precision(name))
        found = accuracy(renewed, data, "test")
        print(f"statistics of {settings.images} images in {name}: test {found:.3f}", flush=True)


def _distances(network: nn.Module, data: ImageData) -> None:
    """Of gradients in training mode, each relative to the gradient's own length."""
    network.requires_grad_(True)
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.0  # looked at, not trained
    drawn = np.random.default_rng(data.seed).permutation(len(data.labels("train")))
    exact, rounded = [], []
    for number in range(_BATCHES):
        part = np.sort(drawn[number * data.batch_size :][: data.batch_size])
        exact.append(_gradient(network, data, part, "float32"))
        rounded.append(_gradient(network, data, part, "bfloat16"))
        cosine = torch.cosine_similarity(exact[-1], rounded[-1], dim=0)
        off = (rounded[-1] - exact[-1]).norm() / exact[-1].norm()
        print(f"batch {number + 1}: rounding {off:.3f} of it, cosine {cosine:.5f}", flush=True)
    lengths = torch.stack([one.norm() for one in exact])
    apart = torch.stack([one - sum(exact) / len(exact) for one in exact]).norm(dim=1)
    print(f"batches from their mean: {apart.mean() / lengths.mean():.3f} of it", flush=True)


def _gradient(network: nn.Module, data: ImageData, part: np.ndarray, precision: str) -> Tensor:
    pixels = channels_last_pixels(torch.from_numpy(data.images("train", part)))
    network.zero_grad()
    with _precision(precision):
        logits = network(pixels)
    labels = torch.from_numpy(data.labels("train")[part])
    nn.functional.cross_entropy(logits.float(), labels).backward()
    found = [p.grad.double().flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(found)


def _precision(name: str) -> AbstractContextManager[Any]:
    return nullcontext() if name == "float32" else torch.autocast("cpu", torch.bfloat16)


def _settings() -> Any:
    options = Options(__doc__, "data", "threads", "images", images=2048)
    options.add_argument("--run", required=True, help="run directory of a training")
    options.add_argument("--ckpt", help="another checkpoint of it than the last")
    return options.chosen()


if __name__ == "__main__":
    main()
