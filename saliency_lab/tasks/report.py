"""One page of what the run directories hold: `python -m saliency_lab report`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.report.page import write_report


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Write the page, its figures and tables; nothing is computed anew by a model.

    Raises:
        UserError: there is no run to show.
    """
    destination = Path(config["destination"]) if config["destination"] else directory
    files = write_report(Path(config["output_root"]), config["runs"], destination)
    print(f"wrote {files.page}")
