"""`python -m benchmarks.causes --run RUN --images DIR`: what moves a column's six areas, what not.

One trained network, measured by the plain script (no engine) as the reference experiment says, and
then with one thing changed at a time that a reader of the paper cannot know: batch norms that take
each batch's own statistics, pixels deleted after normalisation, photographs brought to size in
other ways. Beside them how strongly the gradient lies on a grid.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from benchmarks.options import Options
from benchmarks.plain import PAPER_CURVES, all_curves, all_maps, class_gradient
from saliency_lab.data.decoding import decoded
from saliency_lab.evaluation.deletion.removal import PAPER_FRACTIONS, area_under_curve
from saliency_lab.models.checkpoint import load_classifier

_MEAN = torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1)
_STD = torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)
VARIANTS = ("paper", "batch_statistics", "normalised", "cropped", "softened")
_PERIODS = (2, 4, 8, 16)


def main() -> None:
    """Print a row of areas for each variant, write them as JSON."""
    settings = _settings()
    torch.set_num_threads(settings.threads)
    files = spread(Path(settings.images), settings.count)
    model = load_classifier(Path(settings.run) / "checkpoints" / "best.ckpt").network.eval()
    photographs = torch.stack([_stretched(file, settings.size) for file in files])
    rows: dict[str, list[float]] = {}
    print("| variant | " + " | ".join(f"{fill}, {view}" for fill, view in PAPER_CURVES))
    for variant in settings.variants:
        network, images = model, photographs
        if variant == "normalised":
            network, images = OnNormalised(model), (photographs - _MEAN) / _STD
        if variant in _READINGS:
            images = torch.stack([_READINGS[variant](file, settings.size) for file in files])
        with batch_statistics(model) if variant == "batch_statistics" else nullcontext():
            rows[variant] = areas(network, images.split(settings.batch))
        print(f"| {variant} | " + " | ".join(f"{area:.3f}" for area in rows[variant]), flush=True)
    rows["grid"] = [grid(model, photographs[: settings.batch], period) for period in _PERIODS]
    shown = ", ".join(f"{p}: {v:.2f}" for p, v in zip(_PERIODS, rows["grid"], strict=True))
    print(f"largest over smallest mean |gradient| of columns by their place in a period: {shown}")
    path = Path(settings.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def areas(model: nn.Module, batches: tuple[Tensor, ...]) -> list[float]:
    """The six areas of the paper's figure, means over images."""
    found = []
    for images in batches:
        with torch.no_grad():
            intact = model(images).argmax(1)
        kept = all_curves(model, images, all_maps(model, images)) == intact[None, :, None]
        found.append(area_under_curve(kept, PAPER_FRACTIONS))
    return torch.cat(found, 1).mean(1).tolist()


def grid(model: nn.Module, images: Tensor, period: int) -> float:
    """Largest over smallest mean |gradient| of columns by their place in a period; 1 is even."""
    with torch.no_grad():
        targets = model(images).argmax(1)
    columns = class_gradient(model, images, targets).abs().mean((0, 1, 2))
    # The outermost columns see less of the network.
    inner = columns[2 * period : -2 * period] if len(columns) > 8 * period else columns
    whole = inner[: len(inner) // period * period].view(-1, period).mean(0)
    return float(whole.max() / whole.min())


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms as in training, without learning from what they see."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, 0.0
    try:
        yield
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum


class OnNormalised(nn.Module):
    """The network on photographs that have been normalised: 0 is ImageNet's mean colour there."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images * _STD + _MEAN)


def spread(folder: Path, count: int) -> list[Path]:
    """`count` photographs, evenly spread over the folder's classes."""
    files = sorted(folder.glob("*/*"))
    return [files[place * len(files) // count] for place in range(count)]


def _stretched(file: Path, size: int) -> Tensor:
    return torch.from_numpy(decoded(file, size, "stretch")).float() / 255


def _middle(file: Path, size: int) -> Tensor:
    """Seven eighths of each side, as a crop of 224 out of 256 has them, enlarged to the size."""
    edge = size // 16
    inner = _stretched(file, size)[:, edge : size - edge, edge : size - edge]
    return _resized(inner, size)


def _softened(file: Path, size: int) -> Tensor:
    """Reduced to half and enlarged again: what a softer way of resizing leaves."""
    return _resized(_resized(_stretched(file, size), size // 2), size)


def _resized(image: Tensor, size: int) -> Tensor:
    smooth = nn.functional.interpolate(image[None], (size, size), mode="bilinear", antialias=True)
    return smooth[0]


_READINGS = {"cropped": _middle, "softened": _softened}


def _settings() -> argparse.Namespace:
    options = Options(__doc__, "threads", "json", json="outputs/causes.json")
    options.add_argument("--run", required=True, help="a training's directory")
    options.add_argument("--images", required=True, help="a folder with a folder per class")
    options.add_argument("--size", type=int, required=True, help="pixels along a side")
    options.add_argument("--count", type=int, default=128, help="photographs")
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    return options.chosen()


if __name__ == "__main__":
    main()
