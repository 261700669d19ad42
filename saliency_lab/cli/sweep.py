"""What became of each job of a multirun, whichever process ran it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from saliency_lab.cli.roots import kept
from saliency_lab.cli.search import kept_results
from saliency_lab.runs.directory import remove_empty
from saliency_lab.runs.files import write_text
from saliency_lab.runs.processes import SWEEP


@dataclass
class Sweep:
    """The sweep that this process has started: its name, and where its jobs leave word.

    Hydra runs all jobs of a sweep and then shows the first exception only. Each job therefore
    leaves a record in the sweep's own directory, which parallel launchers' processes reach, too.
    """

    name: str
    succeeded: bool = False

    @classmethod
    def of(cls, arguments: list[str]) -> Sweep | None:
        """The sweep that the arguments ask for, if they do, and if no process above has one."""
        if not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments):
            return None
        os.environ[SWEEP] = _own_name()
        return cls(os.environ[SWEEP])

    def records(self) -> list[dict[str, Any]]:
        """One record per job that came to an end, in the jobs' order."""
        directory = _located.get(self.name)
        if directory is None:
            return []
        found = [json.loads(path.read_bytes()) for path in directory.glob("job-*.json")]
        return sorted(found, key=lambda record: record["job"])

    def failed(self) -> list[dict[str, Any]]:
        """The records of the jobs that failed."""
        return [record for record in self.records() if record["status"] == "failed"]

    def report(self) -> int:
        """Print what failed and why, and return the exit code: 2 if all are users' errors."""
        records, failed = self.records(), self.failed()
        print(f"\n{len(failed)} of {len(records)} jobs failed:", file=sys.stderr)
        for record in failed:
            print(f"  {record['overrides']}\n    {record['error']}", file=sys.stderr)
        return 2 if all(record["user_error"] for record in failed) else 1

    def say_end(self) -> None:
        """Print that all is done: the output of a launcher's jobs is elsewhere."""
        print(f"all {len(self.records())} jobs of the sweep finished")
        directory = _located.get(self.name)
        best = None if directory is None else kept_results(directory)
        if best is not None:
            print(best)
        self.succeeded = True

    def close(self) -> None:
        """Forget the sweep; a launcher's own logs stay unless every job has succeeded."""
        os.environ.pop(SWEEP, None)
        directory = _located.pop(self.name, None)
        if directory is None or not directory.is_dir():
            return
        if self.succeeded:
            shutil.rmtree(directory)
        for place in [directory, *_abandoned(directory.parent)]:
            for path in [*place.glob("job-*.json"), place / "multirun.yaml"]:
                path.unlink(missing_ok=True)
            _remove_empty(place)
        # Up to the output root, where all jobs were refused.
        remove_empty(directory.parent, kept(directory.parent.parent))


def _abandoned(folder: Path) -> list[Path]:
    """The directories of this machine's sweeps that were killed."""
    found = []
    # Another sweep that ends at this moment may have removed the folder.
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            host, _, pid = path.name.rpartition("-")
            if host == platform.node() and not psutil.pid_exists(int(pid)):
                found.append(path)
    return found


def _remove_empty(folder: Path) -> None:
    # Another sweep may leave a record there, or remove it, at this moment.
    with contextlib.suppress(OSError):
        folder.rmdir()


def is_own_sweep() -> bool:
    """Whether this very process has started the sweep that it works for."""
    return os.environ.get(SWEEP) == _own_name()


def _own_name() -> str:
    return f"{platform.node()}-{os.getpid()}"


# Where this process's sweep keeps its records, known once Hydra has composed the configuration.
_located: dict[str, Path] = {}


def sweep_directory(output_root: str) -> str:
    """The value of `hydra.sweep.dir`: a hidden directory beside the runs."""
    name = os.environ.get(SWEEP, "none")
    directory = (Path(output_root) / ".sweeps" / name).absolute()
    _located.setdefault(name, directory)
    return str(directory)


def leave_record(directory: Path, job: int, overrides: str, **outcome: Any) -> None:
    """Write what became of one job; called in the job's own process."""
    record = {"job": job, "overrides": overrides, **outcome}
    write_text(directory / f"job-{job:05d}.json", json.dumps(record))
