"""Which of the processes of a run this one is, before any process group exists."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

# Set in the processes that this program starts for one job, never by a person.
PARENT = "SALIENCY_LAB_PARENT"
OUTCOMES = "SALIENCY_LAB_OUTCOMES"
# The sweep that a job belongs to, in whichever process the job runs.
SWEEP = "SALIENCY_LAB_SWEEP"


def process_rank(environment: Mapping[str, str] | None = None) -> int:
    """The global rank of this process; 0 where nothing has launched it as one of several."""
    variables = os.environ if environment is None else environment
    if "RANK" in variables:
        return int(variables["RANK"])
    if under_srun(variables):
        return int(variables["SLURM_PROCID"])
    return int(variables.get("LOCAL_RANK", 0))


def process_count(environment: Mapping[str, str] | None = None) -> int:
    """How many processes were launched together with this one; 1 where nothing launched it."""
    variables = os.environ if environment is None else environment
    if "RANK" in variables:
        return int(variables.get("WORLD_SIZE", 1))
    return int(variables["SLURM_NTASKS"]) if under_srun(variables) else 1


def under_srun(environment: Mapping[str, str]) -> bool:
    """Whether SLURM's srun started several copies of this program."""
    return (
        "SLURM_PROCID" in environment
        and PARENT not in environment
        and int(environment.get("SLURM_NTASKS", "1")) > 1
        # An interactive shell in an allocation has the variables, too, and is one process.
        and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    )


def started_by_launcher(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun or srun started this process as one of several."""
    variables = os.environ if environment is None else environment
    return PARENT not in variables and ("TORCHELASTIC_RUN_ID" in variables or under_srun(variables))


def started_by_us(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this program started this process as one of a job's."""
    return PARENT in (os.environ if environment is None else environment)


def outcome_path(rank: int, environment: Mapping[str, str] | None = None) -> Path:
    """Where a process that this program started leaves word of why it failed."""
    variables = os.environ if environment is None else environment
    return Path(variables[OUTCOMES]) / f"rank-{rank}.json"


def end_with_parent(seconds: float = 1.0) -> None:
    """End this process soon after the one that started it has ended, however that came about.

    A parent that is killed cannot tell its children; they would compute on, unwatched.
    """
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        # Not sys.exit: the main thread may wait for another process for ever.
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
