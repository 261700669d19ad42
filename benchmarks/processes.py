"""Images per second of two processes with one thread each against one process with one thread.

    python benchmarks/processes.py [--images 4000] [--repeats 3]

Evaluates the five maps of the paper on the embedded data set with an untrained classifier's
checkpoint. The rate is that of the test loop alone, as the log of the run tells it; what a process
needs to start is not in it. Target: two processes are at least 1.85 times as fast as one.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = 1.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(place, "train", "data.train_images=100", "trainer.max_epochs=1", "trainer=cpu")
        (checkpoint,) = place.rglob("last.ckpt")
        checkpoint.rename(place / "classifier.ckpt")
        rates: dict[int, list[float]] = {1: [], 2: []}
        # By turns, so that a machine that is busy for a while is so for both.
        for _ in range(chosen.repeats):
            for count, found in rates.items():
                found.append(rate(place, count, chosen.images))
                print(f"{count} process{'es' * (count > 1)}: {found[-1]:.1f} images/s", flush=True)
    one, two = (statistics.median(rates[count]) for count in (1, 2))
    print(f"two against one: {two / one:.2f} (target {TARGET}), medians of {chosen.repeats}")
    sys.exit(two / one < TARGET)


def rate(place: Path, count: int, images: int) -> float:
    """Images per second of the test loop of one evaluation."""
    printed = run(
        place,
        "evaluate",
        "method=paper",
        "ckpt=classifier.ckpt",
        "data.train_images=100",
        f"data.test_images={images}",
        "evaluator.batch_size=25",
        "evaluator.resamples=10",
        "overwrite=true",
        *(("trainer=cpu",) if count == 1 else ("trainer=ddp", f"trainer.devices={count}")),
        "trainer.accelerator=cpu",
        "trainer.threads=1",
    )
    (found,) = re.findall(r"([\d.]+) images/s in the test loop", printed)
    return float(found)


def run(place: Path, *words: str) -> str:
    """Run a task in `place` and return its log."""
    return finished(place, "-m", "saliency_lab", *words, "logger=none").stderr


def finished(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with one thread, run in `place` to its end; a failure ends this process, too."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done


if __name__ == "__main__":
    main()
