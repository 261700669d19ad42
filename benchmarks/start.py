"""`python -m benchmarks.start`: seconds until the help is there, and until the first batch.

Help: from the command to its end. First batch: of `train` and of `evaluate` on the embedded data
set, from the command to the first batch in its step, beyond what importing torch takes; each in a
process of its own that ends there. The median of three, the first run aside (a cold disk).
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import finished, run

REPEATS = 3
COMMON = ("data.train_images=100", "trainer=cpu", "trainer.threads=1", "logger=none")

# Run in the child in place of `python -m saliency_lab`.
_UNTIL_FIRST_BATCH = """
import os, sys, time
import torch
imported = time.perf_counter()
from saliency_lab.cli import main

def first(*_):
    print("SECONDS", time.perf_counter() - imported, flush=True)
    os._exit(0)

if sys.argv[1] == "train":
    from saliency_lab.models.classifier import Classifier
    Classifier.training_step = first
else:
    from saliency_lab.evaluation.loop import EvaluationLoop
    EvaluationLoop.on_test_batch_end = first
main()
"""


def main() -> int:
    """Print one line for each command; 1 where one takes longer than its target."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(place, "train", *COMMON[:2], "trainer.max_epochs=1")
        (checkpoint,) = place.rglob("last.ckpt")
        checkpoint.rename(place / "classifier.ckpt")
        evaluate = ("evaluate", "method=paper", "ckpt=classifier.ckpt", "data.test_images=100")
        cases: dict[str, tuple[float, Callable[[], float]]] = {
            "--help": (1.0, lambda: _help(place)),
            "train, to the first batch": (10.0, lambda: _first_batch(place, "train")),
            "evaluate, to the first batch": (10.0, lambda: _first_batch(place, *evaluate)),
        }
        for name, (target, measure) in cases.items():
            measure()
            seconds = statistics.median(measure() for _ in range(REPEATS))
            missed |= seconds > target
            print(f"{name:30} {seconds:6.2f} s (target < {target:.0f} s)", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")
    return int(missed)


def _help(place: Path) -> float:
    began = time.perf_counter()
    finished(place, "-m", "saliency_lab", "--help")
    return time.perf_counter() - began


def _first_batch(place: Path, *words: str) -> float:
    done = finished(place, "-c", _UNTIL_FIRST_BATCH, *words, *COMMON, "overwrite=true")
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
    return float(line.split()[1])


if __name__ == "__main__":
    sys.exit(main())
