"""`python -m benchmarks.source_memory --data DIR --only CASE`: memory of sources of many passes.

For each source, ours in float32 and its peer as `benchmarks.sources` calls them, on the same
images: by how much the process grows at most while the maps are made. Every number has a process
of its own, whose peak Linux counts (VmHWM), with the network and the images already there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.cases import cases
from benchmarks.classes import megabytes
from benchmarks.options import Options
from benchmarks.source_sides import SOURCES
from saliency_lab.frozen import intact_logits
from saliency_lab.inference.engine import Engine

SIDES = ("ours", "peer")


def main() -> None:
    """Print a line for each source, or with `--side` the megabytes of one."""
    settings = _settings()
    if settings.side:
        print(grown(settings))
        return
    print("| source | ours, MB | peer, MB |\n|---|---|---|")
    for source in SOURCES:
        found = [_child(source.name, side) for side in SIDES]
        print(
            f"| {source.name} | {found[0]:.0f} | {found[1]:.0f} ({source.peer_name}) |", flush=True
        )


def grown(settings: argparse.Namespace) -> float:
    """Peak of this process while one side makes its maps, above what it held before, in MB."""
    torch.set_num_threads(1)
    place = torch.device("cpu")
    (case,) = cases(Path(settings.outputs), Path(settings.data), place, settings.only)
    (source,) = (one for one in SOURCES if one.name == settings.source)
    images = case.images[: settings.images].contiguous()
    targets = intact_logits(case.model, images).argmax(1)
    prepared = Engine().prepare(case.model, images)
    # What was larger before than anything that follows does not count.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = megabytes("VmRSS")
    if settings.side == "ours":
        source.ours(prepared, images, targets, source.samples)
    else:
        source.theirs(case.model, images, targets, source.samples)
    return megabytes("VmHWM") - before


def _child(source: str, side: str) -> float:
    command = [sys.executable, "-m", "benchmarks.source_memory", *sys.argv[1:]]
    command += ["--source", source, "--side", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def _settings() -> argparse.Namespace:
    options = Options(__doc__, "data", "outputs", "only", "images", images=8)
    options.add_argument("--source", choices=[one.name for one in SOURCES], help=argparse.SUPPRESS)
    options.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    settings = options.chosen()
    if settings.only is None:
        options.error("--only CASE is needed, for example 'vit_tiny 32'")
    return settings


if __name__ == "__main__":
    main()
