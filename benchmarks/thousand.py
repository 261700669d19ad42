"""`python -m benchmarks.thousand --data DIR`: views among 1,000 classes, all or the top ones.

EfficientNet-Lite0 with its own head of 1,000 ImageNet classes (`pip install
'saliency-lab[pretrained]'`) on photographs of Imagenette. Active and inactive maps compare a class
with every other; `view.competitors=20` compares it with the 20 whose logits are highest. Printed
are time and peak memory of both, the share of the pixels that differ, and the areas under the
deletion curves, paired over images.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cases import photographs
from benchmarks.classes import megabytes
from benchmarks.options import Options
from saliency_lab.attribution.maps import maps
from saliency_lab.evaluation.deletion.curves import deletion_curve
from saliency_lab.evaluation.deletion.removal import PAPER_FRACTIONS, area_under_curve
from saliency_lab.evaluation.rows.significance import paired_difference
from saliency_lab.inference.engine import Engine, PreparedModel
from saliency_lab.models.network import network

CLASSES = 1000
FILLS = {"active": "black", "inactive": "white"}


def main() -> int:
    """Measure with few rivals and with all, and print what differs."""
    settings = _settings()
    torch.set_num_threads(settings.threads)
    model = network("tf_efficientnet_lite0", CLASSES, weights="package:efficientnet_lite0").eval()
    images = photographs(Path(settings.data) / "imagenette2/val", settings.images)
    prepared = Engine().prepare(model, images)
    few, few_areas = _measured(prepared, images, settings.competitors)
    every, areas = _measured(prepared, images, None)
    for view, fill in FILLS.items():
        changed = float((every[view] != few[view]).float().mean())
        apart = paired_difference(few_areas[view], areas[view])
        print(
            f"{view}: {100 * changed:.2f} % of the pixels differ; area ({fill}) with "
            f"{settings.competitors} rivals minus that with all "
            f"{apart.difference:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"
        )
    return 0


def _measured(
    prepared: PreparedModel, images: Tensor, competitors: int | None
) -> tuple[dict[str, Tensor], dict[str, NDArray[np.float64]]]:
    """The maps, and the area of each image; prints what they cost."""
    # Linux counts the highest memory of a process (VmHWM) from here on.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = megabytes("VmRSS"), time.process_time()
    made: dict[str, Tensor] = {name: torch.empty(0) for name in FILLS}
    for image in images.split(1):
        found = maps(prepared.model, image, names="all", competitors=competitors).maps
        made = {name: torch.cat([made[name], found[name]]) for name in FILLS}
    seconds = (time.process_time() - start) / len(images)
    print(
        f"{competitors or CLASSES - 1} rivals: {seconds:.2f} s of the processor per image, "
        f"{megabytes('VmHWM') - before:.0f} MB more than before",
        flush=True,
    )
    areas = {}
    for view, fill in FILLS.items():
        kept = deletion_curve(prepared, images, made[view], fill)
        areas[view] = area_under_curve(kept, PAPER_FRACTIONS).cpu().numpy()
        print(f"  {view}, {fill}: area {areas[view].mean():.3f}", flush=True)
    return made, areas


def _settings() -> argparse.Namespace:
    options = Options(__doc__, "data", "threads", "images", images=20)
    options.add_argument("--competitors", type=int, default=20)
    return options.chosen()


if __name__ == "__main__":
    sys.exit(main())
