"""Where log lines go: the terminal, and one file per process in the run directory."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from pathlib import Path

from saliency_lab.runs.processes import process_rank

# For `extra=`: a line that another process will say on the terminal.
IN_FILE_ONLY = {"in_file_only": True}
_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _FileOfRun(logging.FileHandler):
    """A file that is there from its first line on, in a folder that another job may have removed.

    Jobs of a sweep that were refused in the same directory clean up after one another.
    """

    def _open(self) -> io.TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


def configure_logging(directory: Path, task: str) -> None:
    """Send the package's log lines to stderr (rank 0 only) and to `TASK[.rankN].log`.

    Called at the start of each job; the previous job's file is closed.
    """
    close_logs()
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    # Lightning's advice about loader workers: batches are one gather from a mapped file.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    # An int8 screen's results are written over the memory that this is about.
    warnings.filterwarnings("ignore", message="quantized_resize_cpu_ does not have a deterministic")
    # What is logged is the same number on every process, summed by the classifier itself.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*to accumulate the metric.*")
    # Metrics are logged by the epoch, however few batches it has.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    rank = process_rank()
    if rank == 0:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(logging.Formatter("%(message)s"))
        terminal.addFilter(_is_for_the_user)
        terminal.addFilter(lambda record: not hasattr(record, "in_file_only"))
        root.addHandler(terminal)
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{task}.log" if rank == 0 else f"{task}.rank{rank}.log"
    file = _FileOfRun(directory / name, delay=True)
    file.setFormatter(logging.Formatter(_FILE_FORMAT))
    file.addFilter(_is_for_the_user)
    root.addHandler(file)


def close_logs() -> None:
    """Close the log file of the last job, and write nothing more to the terminal."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()


def _is_for_the_user(record: logging.LogRecord) -> bool:
    """What this program says, and of other libraries what they warn of."""
    return record.name.startswith("saliency_lab") or record.levelno >= logging.WARNING
