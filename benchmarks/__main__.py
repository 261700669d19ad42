"""`python -m benchmarks --data DIR`: the table of docs/performance.md, and the same as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks.cases import Case, cases
from benchmarks.comparisons import (
    Row,
    limits,
    product_rate,
    screened_runs,
    versus_captum,
    versus_plain,
    versus_quantus,
)
from benchmarks.options import Options
from benchmarks.timing import choose_clock


def main() -> None:
    """Measure, print the table, write the JSON."""
    settings = _settings()
    torch.set_num_threads(settings.threads)
    choose_clock(settings.clock)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started, rows = time.monotonic(), []
    found = cases(Path(settings.outputs), Path(settings.data), device, settings.only)
    rate = product_rate(device)
    for case in found:
        for row in _rows(case, rate):
            rows.append(row)
            print(_line(row), flush=True)
    report = {
        "machine": {**_machine(device), "clock": settings.clock},
        "matrix_product_gflops": rate,
        "seconds": round(time.monotonic() - started, 1),
        "cases": {
            case.name: {"weights": case.weights, "images": len(case.images)} for case in found
        },
        "rows": [row._asdict() for row in rows],
    }
    path = Path(settings.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{report['seconds']} s; {path}")


def _rows(case: Case, rate: float) -> list[Row]:
    runs = screened_runs(case)
    return [
        *versus_plain(case, runs),
        *versus_captum(case, runs),
        *versus_quantus(case),
        *limits(case, rate),
    ]


def _settings() -> argparse.Namespace:
    options = Options(
        __doc__, "data", "outputs", "only", "json", "threads", "clock",
        json="outputs/benchmarks.json", threads=torch.get_num_threads(),
    )  # fmt: skip
    settings = options.chosen()
    if settings.clock == "cpu" and (settings.threads > 1 or torch.cuda.is_available()):
        options.error("--clock cpu is for --threads 1 without a GPU")
    return settings


def _machine(device: torch.device) -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return (
                    f"{line.split(':', 1)[1].strip()} ({torch.backends.cpu.get_cpu_capability()})"
                )
    return platform.processor()


def _line(row: Row) -> str:
    target = f"target {row.target}" if row.target else ""
    return f"{row.case:18} {row.comparison:56} {row.value:8.2f} {row.unit:9} {target:16} {row.note}"


if __name__ == "__main__":
    sys.exit(main())
