"""One page of what the run directories hold: `python -m saliency_lab report`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.config.binding import built
from saliency_lab.errors import UserError
from saliency_lab.report.drawing.axes import checked_axis
from saliency_lab.report.page.page import ReportFiles, write_report
from saliency_lab.tracking.tracking import Tracking


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Write the page, its figures and tables; nothing is computed anew by a model.

    With `wandb=true` the same goes to Weights & Biases, as one comparison of all runs.

    Raises:
        UserError: there is no run to show, no such axis of curves, no folder to write to, or
            `logger` records nothing although `wandb=true`.
    """
    axis = checked_axis(config["curves_over"])
    if config["runs"] == []:
        raise UserError("Expected `runs` to name runs, or to be left out for all, but got []")
    tracking = _tracking(config) if config["wandb"] else None
    destination = Path(config["destination"]) if config["destination"] else directory
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Expected `destination` to be a folder to write to, but got '{destination}': "
            f"{error.strerror}"
        ) from error
    files = write_report(Path(config["output_root"]), config["runs"], destination, axis)
    print(f"wrote {files.page}")
    if tracking is not None:
        _record(tracking, config, files)


def _tracking(config: Mapping[str, Any]) -> Tracking:
    tracking = built(config["logger"], "logger")
    if not isinstance(tracking, Tracking) or tracking.mode == "disabled":
        raise UserError(
            "Expected `logger` to record with wandb=true, but got one that is disabled; "
            "logger=wandb is one that does"
        )
    return tracking


def _record(tracking: Tracking, config: Mapping[str, Any], files: ReportFiles) -> None:
    from saliency_lab.tracking.records import record_report

    with tracking.run(config, files.page.parent) as record:
        view = record_report(record, files)
        if record is None:
            place = "nothing was recorded"
        elif record.run.offline:
            folder = Path(record.run.settings.sync_dir)
            place = f"recorded offline; upload with: wandb sync '{folder}'"
        else:
            place = view or record.run.url
    print(f"W&B: {place}")
