"""`python -m benchmarks.operations --data DIR`: where the time of maps and of curves goes.

The operations of PyTorch in each stage by their own time, in the plain script and here. Sorting is
NumPy's, so what the levels of the curves take is timed as a stage of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import ours, plain
from benchmarks.cases import Case, cases
from benchmarks.options import Options
from saliency_lab.inference.engine import Engine

ROWS = 12


def main() -> None:
    """Print a table for each stage of each case."""
    options = Options(__doc__, "data", "outputs", "threads", "only")
    options.add_argument("--screen", choices=("off", "int8", "bf16"), default="off")
    settings = options.chosen()
    torch.set_num_threads(settings.threads)
    place = torch.device("cpu")
    for case in cases(Path(settings.outputs), Path(settings.data), place, settings.only):
        _profile(case, settings.screen)


def _profile(case: Case, screen: str) -> None:
    prepared = Engine(screen=screen, calibration=case.calibration).prepare(case.model, case.images)  # type: ignore[arg-type]
    found, intact = ours.all_maps(prepared, case.images)
    ours.calibrate(prepared, case.images, found, intact)
    stages: dict[str, Callable[[], object]] = {
        "plain script, maps": lambda: plain.all_maps(case.model, case.images),
        "plain script, curves": lambda: plain.all_curves(case.model, case.images, found),
        "maps": lambda: ours.all_maps(prepared, case.images),
        "levels of the curves": lambda: ours.paper_jobs(case.images, found),
        "curves": lambda: ours.all_curves(prepared, case.images, found, intact),
    }
    for name, stage in stages.items():
        stage()
        began = time.process_time()
        stage()
        whole = time.process_time() - began
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            stage()
        taken = {one.key: one.self_cpu_time_total / 1e6 for one in recorded.key_averages()}
        inside = sum(taken.values())
        print(f"\n{case.name}, {name}: {1e3 * whole:.0f} ms for {len(case.images)} images")
        for key in sorted(taken, key=taken.__getitem__, reverse=True)[:ROWS]:
            print(f"  {100 * taken[key] / inside:5.1f} %  {key}")


if __name__ == "__main__":
    main()
