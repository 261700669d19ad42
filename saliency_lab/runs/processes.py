"""Which of the processes of a run this one is, before any process group exists."""

from __future__ import annotations

import os
from collections.abc import Mapping

# What a launcher leaves behind in the environment, and what the next job must not inherit.
LAUNCH_VARIABLES = (
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def process_rank(environment: Mapping[str, str] | None = None) -> int:
    """The global rank of this process; 0 where nothing has launched it as one of several."""
    variables = os.environ if environment is None else environment
    if "RANK" in variables:
        return int(variables["RANK"])
    if under_srun(variables):
        return int(variables["SLURM_PROCID"])
    # Lightning's launcher numbers the processes of one node; other nodes have a NODE_RANK.
    local, node = int(variables.get("LOCAL_RANK", 0)), int(variables.get("NODE_RANK", 0))
    if node == 0 or "WORLD_SIZE" not in variables:
        return local
    return local or node  # never 0 on another node, which is all that callers ask


def under_srun(environment: Mapping[str, str]) -> bool:
    """Whether SLURM's srun started several copies of this program."""
    return (
        "SLURM_PROCID" in environment
        and int(environment.get("SLURM_NTASKS", "1")) > 1
        # An interactive shell in an allocation has the variables, too, and is one process.
        and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    )


def started_by_launcher(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun or srun started this process as one of several."""
    variables = os.environ if environment is None else environment
    return "TORCHELASTIC_RUN_ID" in variables or under_srun(variables)
