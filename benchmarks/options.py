"""The options that the benchmarks share, each said once."""

from __future__ import annotations

import argparse
import os
from typing import Any

from benchmarks.timing import CLOCKS

_SHARED: dict[str, dict[str, Any]] = {
    "data": {
        "default": os.environ.get("SALIENCY_LAB_DATA"),
        "help": "folder with cifar10/test and imagenette2/val",
    },
    "outputs": {"default": "outputs", "help": "where trained runs lie"},
    "only": {"help": "cases whose name begins so, for example resnet18"},
    "json": {"help": "where to write"},
    "threads": {"type": int, "default": 1},
    "clock": {"choices": CLOCKS, "default": "wall", "help": "cpu: one thread on a busy machine"},
    "images": {"type": int, "help": "of each case"},
}


class Options(argparse.ArgumentParser):
    """A benchmark's options: some of the shared ones, and its own by `add_argument`.

    Args:
        said: the benchmark's docstring, whose first line is its help.
        names: which of the shared ones it takes. `data` must be given, here or by the environment.
        defaults: of shared ones, where a benchmark has its own.
    """

    def __init__(self, said: str | None, *names: str, **defaults: Any) -> None:
        super().__init__(description=(said or "").splitlines()[0])
        for name in names:
            self.add_argument(f"--{name}", **_SHARED[name])
        self.set_defaults(**defaults)
        self._needs_data = "data" in names

    def chosen(self) -> argparse.Namespace:
        """What the command line says; without data there is nothing to measure."""
        settings = self.parse_args()
        if self._needs_data and settings.data is None:
            self.error("--data DIR or SALIENCY_LAB_DATA is needed")
        return settings
