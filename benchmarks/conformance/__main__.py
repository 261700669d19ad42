"""`python -m benchmarks.conformance CHECKPOINT [OVERRIDES…]`: the table of docs/conformance.md.

The program writes the maps of the gradient's original view of some test images into one file.
That file is measured by `evaluate method=file`, and by every peer that is installed; OVERRIDES
are what `evaluate` needs beside the checkpoint, such as `data=cifar10 data.root=DIR`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.conformance.correlations import (
    captum_infidelity,
    quantus_faithfulness_correlation,
    quantus_infidelity,
    quantus_sensitivity_n,
    xplique_mu_fidelity,
)
from benchmarks.conformance.curves import (
    grad_cam_road,
    quantus_flipping,
    quantus_road,
    torchcam_areas,
    xplique_areas,
)
from benchmarks.conformance.evidence import quantus_localisation
from benchmarks.conformance.given import Comparison, Line, given
from benchmarks.conformance.shapes import (
    grad_cam_combined,
    quantus_concentration,
    xplique_concentration,
)

COMPARISONS: tuple[Comparison, ...] = (
    torchcam_areas,
    xplique_areas,
    quantus_flipping,
    quantus_road,
    grad_cam_road,
    xplique_mu_fidelity,
    quantus_faithfulness_correlation,
    quantus_sensitivity_n,
    captum_infidelity,
    quantus_infidelity,
    quantus_concentration,
    xplique_concentration,
    grad_cam_combined,
    quantus_localisation,
)
_PACKAGES = ("torch", "numpy", "quantus", "captum", "torchcam", "grad-cam", "xplique")


def main() -> None:
    """Measure, print the table, write the JSON."""
    words = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    words.add_argument("checkpoint", type=Path, help="of a classifier of this program")
    words.add_argument("overrides", nargs="*", help="of `evaluate`, such as data=cifar10")
    words.add_argument("--images", type=int, default=20)
    words.add_argument("--folder", type=Path, default=Path("outputs/conformance"))
    settings = words.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    folder = settings.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = given(settings.checkpoint.resolve(), settings.overrides, settings.images, folder)
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for comparison in COMPARISONS:
            try:
                lines += comparison(found)
            except ImportError as error:
                print(f"{comparison.__name__}: left out, {error}")
    print("\n".join(table(lines)))
    rows = [line._asdict() for line in lines]
    report = {"versions": _versions(), "images": len(found.ids), "lines": rows}
    path = folder / "conformance.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{path}: {report['versions']}")


def table(lines: Sequence[Line]) -> list[str]:
    """As Markdown."""
    head = "| measure | peer | here | there | apart | its definition here | cause |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for line in lines:
        values = [_number(line.ours), _number(line.theirs), _small(line.apart)]
        cells = [line.measure, line.peer, *values, _small(line.repeated), line.cause or "–"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}" if value < 1e-2 else _number(value)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


if __name__ == "__main__":
    main()
