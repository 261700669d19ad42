"""What is measured on: trained weights and real images, three network and image sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from saliency_lab.models.construction import built_network
from saliency_lab.models.weights import read_file
from saliency_lab.runs.directory import is_finished, read_summary


@dataclass
class Case:
    """One network with its images."""

    name: str
    model: nn.Module
    images: Tensor
    repeats: int
    calibration: int
    weights: str


# Name, architecture, data sets that a checkpoint is looked for under, image folder, number of
# images on a CPU, repeats, masked images that a screen is calibrated on.
_CASES = (
    ("basic_cnn 32x32", "basic_cnn", ("cifar10",), "cifar10/test", 256, 5, 2048),
    ("resnet18 32x32", "resnet18", ("cifar10",), "cifar10/test", 128, 3, 2048),
    ("resnet18 224x224", "resnet18", ("imagenette", "cifar10"), "imagenette2/val", 4, 3, 200),
)
# Only where they are asked for by name.
_VIT = "vit_tiny_patch16_224"
_FURTHER = (
    ("vit_tiny 32x32", _VIT, ("cifar10",), "cifar10/test", 128, 3, 2048),
    ("vit_tiny 128x128", _VIT, ("imagenette",), "imagenette2/val", 16, 3, 200),
)


def cases(outputs: Path, data: Path, device: torch.device, only: str | None) -> list[Case]:
    """The cases whose name begins with `only`, weights from `outputs`, images from `data`.

    Raises:
        FileNotFoundError: an image folder or every checkpoint of a case is missing.
    """
    found = []
    known = (*_CASES, *(_FURTHER if only else ()))
    for name, architecture, datasets, folder, count, repeats, calibration in known:
        if only is not None and not name.startswith(only):
            continue
        checkpoint = _checkpoint(outputs, architecture, datasets)
        side = int(name.rpartition("x")[2])
        text = (checkpoint.parent.parent / "config.yaml").read_text(encoding="utf-8")
        form = yaml.safe_load(text)["model"]
        model = built_network(form, 10, (3, side, side), load_weights=False)
        state = read_file(checkpoint, "checkpoint")["state_dict"]
        prefix = "network."
        model.load_state_dict(
            {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        )
        many = count * (16 if device.type == "cuda" else 1)
        images = photographs(data / folder, many, side).to(device)
        label = str(checkpoint.relative_to(outputs).parent.parent)
        found.append(Case(name, model.eval().to(device), images, repeats, calibration, label))
    return found


def _checkpoint(outputs: Path, architecture: str, datasets: tuple[str, ...]) -> Path:
    """Of the finished runs on the first data set that has any, the one of the most epochs."""
    for dataset in datasets:
        folder = outputs / "train" / dataset / architecture
        runs = [
            path.parent
            for path in sorted(folder.glob("*/summary.json"))
            if is_finished(path.parent)
        ]
        if runs:
            longest = max(runs, key=lambda run: read_summary(run)["epochs"])
            return longest / "checkpoints" / "best.ckpt"
    raise FileNotFoundError(f"no trained {architecture} in {outputs}: train one on {datasets[0]}")


def photographs(folder: Path, count: int, side: int | None = None) -> Tensor:
    """`count` of the photographs below a folder, evenly spread, (N, 3, H, W) in [0, 1].

    Args:
        folder: with a folder for each class.
        count: how many.
        side: pixels that others are stretched to; None where all have one size.
    """
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise FileNotFoundError(f"no images in {folder}")
    chosen = [files[place * len(files) // count] for place in range(count)]
    pictures = [Image.open(file).convert("RGB") for file in chosen]
    if side is not None:
        wanted = (side, side)
        pictures = [one if one.size == wanted else one.resize(wanted) for one in pictures]
    pixels = [np.asarray(one) for one in pictures]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous().float() / 255
