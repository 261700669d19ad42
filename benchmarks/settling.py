"""`python -m benchmarks.settling --run RUN --data DIR`: a network, and the same one settled.

At a rate that stays high the last steps of a training still change the weights, and the running
statistics of batch norms lag behind them. This takes the statistics of a finished training anew
(Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3), or trains further at a lower
rate (`--epochs 2 --rate 1e-4`), prints accuracies before and after, and writes a checkpoint for
`evaluate ckpt=FILE`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.options import Options
from saliency_lab.data.batch import channels_last_pixels
from saliency_lab.data.module import ImageData, SplitName
from saliency_lab.data.sampling import TrainBatches
from saliency_lab.frozen import intact_logits
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.weights import read_file
from saliency_lab.runs.directory import read_config
from saliency_lab.training.batch_norms import renew_statistics
from saliency_lab.training.components import data_module

_TOLD, _AT_ONCE = 1000, 50


def main() -> None:
    """Print accuracies before and after, write the checkpoint."""
    settings = _settings()
    config, data = opened(settings)
    source = Path(settings.run) / "checkpoints" / "last.ckpt"
    network = load_classifier(source, "--run").network
    _say("as it ended", network, data)
    if settings.epochs:
        first = int(config["trainer"]["max_epochs"])
        bf16 = config["trainer"]["precision"] == "bf16-mixed"
        network.requires_grad_(True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate)
        for epoch in range(first, first + settings.epochs):
            train(network, data, optimizer, epoch, bf16=bf16)
            _say(f"after epoch {epoch + 1}, at {settings.rate:g}", network, data)
    else:
        renew_statistics(network, data, settings.images)
        _say(f"statistics of {settings.images} images", network, data)
    content = read_file(source, "--run")
    content["state_dict"] |= {f"network.{key}": v for key, v in network.state_dict().items()}
    Path(settings.to).parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, settings.to)
    print(f"wrote {settings.to}")


def opened(settings: argparse.Namespace) -> tuple[dict[str, Any], ImageData]:
    """What the run was made from, and its images; torch on as many threads as are asked for."""
    torch.set_num_threads(settings.threads)
    config = read_config(Path(settings.run))
    config["data"]["root"] = settings.data
    data = data_module(config)
    data.setup("fit")
    data.setup("test")
    return config, data


def train(
    network: nn.Module,
    data: ImageData,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    *,
    bf16: bool,
) -> None:
    """One epoch more, in the order of that epoch."""
    network.train()
    split = data.split("train")
    for places in TrainBatches(
        len(split), data.batch_size, data.seed, rank=0, world=1, epoch=epoch
    ):
        batch = split.__getitems__(list(places))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(channels_last_pixels(batch.image))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), batch.label).backward()
        optimizer.step()
    network.eval()


def _say(what: str, network: nn.Module, data: ImageData) -> None:
    shares = [f"{split} {accuracy(network, data, split):.3f}" for split in ("train", "test")]
    print(f"{what}: {', '.join(shares)} in evaluation", flush=True)


def accuracy(network: nn.Module, data: ImageData, split: SplitName) -> float:
    """In evaluation mode, of up to 1,000 images spread evenly over the split."""
    labels = data.labels(split)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(_TOLD, len(labels))).astype(np.int64))
    parts = np.array_split(chosen, -(-len(chosen) // _AT_ONCE))
    correct = [
        intact_logits(network, _pixels(data, split, part)).argmax(1).numpy() == labels[part]
        for part in parts
    ]
    return float(np.concatenate(correct).mean())


def _pixels(data: ImageData, split: SplitName, places: np.ndarray) -> Tensor:
    return torch.from_numpy(data.images(split, places)).float().div_(255)


def _settings() -> argparse.Namespace:
    options = Options(__doc__, "data", "threads", "images", images=2048)
    options.add_argument("--run", required=True, help="run directory of a finished training")
    options.add_argument("--epochs", type=int, default=0, help="more of these, not new statistics")
    options.add_argument("--rate", type=float, default=1e-4, help="learning rate of these")
    options.add_argument("--to", default="outputs/settled.ckpt", help="checkpoint to write")
    return options.chosen()


if __name__ == "__main__":
    main()
