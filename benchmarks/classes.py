"""`python -m benchmarks.classes --data DIR`: memory for 10 and 1000 classes, and fewer competitors.

Peak memory of the five maps of 32 images of 32x32 with ResNet-18, and the share of pixels of the
active and inactive maps that change when a class is compared with the top-scoring competitors
only. With 10 classes the weights are trained. No trained head of 1000 classes is at hand: that one
has random weights on the trained trunk, and its share says little about a real one.

Every number of classes has a process of its own, whose peak Linux counts (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import cases
from benchmarks.options import Options
from saliency_lab.attribution.maps import maps
from saliency_lab.inference.engine import Engine

IMAGES = 32
COMPETITORS = {10: (3, 5), 1000: (20,)}
TARGET = 1.2


def main() -> int:
    """Measure each number of classes, print a line for each; 1 where memory grows too much."""
    settings = _settings()
    if settings.classes:
        print(json.dumps(measured(settings)))
        return 0
    found = {classes: _child(classes) for classes in COMPETITORS}
    for classes, one in found.items():
        weights = "trained weights" if classes == 10 else "SYNTHETIC: a random head"
        print(
            f"{classes} classes ({weights}), the five maps of {IMAGES} images: peak of the process "
            f"{one['peak']:.0f} MB, {one['peak'] - one['before']:.0f} MB more than before"
        )
        for limit, share in one["changed"].items():
            parts = ", ".join(f"{100 * value:.2f} % of {view}" for view, value in share.items())
            print(f"  competitors={limit} changes {parts} pixels")
    ratio = found[1000]["peak"] / found[10]["peak"]
    print(f"peak memory, 1000 classes against 10: {ratio:.3f} (target ≤ {TARGET})")
    return int(ratio > TARGET)


def measured(settings: argparse.Namespace) -> dict[str, object]:
    """Peak of the process in MB while the maps are made, and the shares by competitors."""
    torch.set_num_threads(settings.threads)
    place = torch.device("cpu")
    (case,) = cases(Path(settings.outputs), Path(settings.data), place, "resnet18 32")
    images = case.images[:IMAGES]
    if settings.classes != 10:
        torch.manual_seed(0)
        backbone = case.model.backbone
        assert isinstance(backbone, nn.Module)
        backbone.fc = nn.Linear(512, settings.classes)
    prepared = Engine(maps_batch=IMAGES).prepare(case.model, images)
    # The weights' file and the copies were larger than anything that follows.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = megabytes("VmRSS")
    full = _maps(prepared.model, images, None)
    peak = megabytes("VmHWM")
    changed = {
        limit: {
            view: float((few != full[view]).float().mean())
            for view, few in _maps(prepared.model, images, limit).items()
            if view in ("active", "inactive")
        }
        for limit in COMPETITORS[settings.classes]
    }
    return {"peak": peak, "before": before, "changed": changed}


def megabytes(name: str) -> float:
    """The current (VmRSS) or the highest (VmHWM) memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"Expected {name} in /proc/self/status")


def _maps(model: nn.Module, images: Tensor, competitors: int | None) -> dict[str, Tensor]:
    return maps(model, images, names="all", competitors=competitors).maps


def _child(classes: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.classes", *sys.argv[1:], "--classes", str(classes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _settings() -> argparse.Namespace:
    options = Options(__doc__, "data", "outputs", "threads")
    options.add_argument("--classes", type=int, help=argparse.SUPPRESS)
    return options.chosen()


if __name__ == "__main__":
    sys.exit(main())
