"""The processes of one job: started together, watched, and ended together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saliency_lab.errors import ProcessError, UserError
from saliency_lab.runs.processes import OUTCOMES, PARENT, outcome_path, process_rank

# A process that fails mostly takes the others with it; they are given this long to say why.
SECONDS_TO_FOLLOW = 5.0
SECONDS_TO_STOP = 15.0


def processes_here(trainer: Mapping[str, Any]) -> int:
    """How many processes a job with these `trainer` settings has on this machine."""
    devices = trainer.get("devices")
    if devices == "auto" and trainer.get("accelerator") != "cpu":
        import torch  # seconds, and nothing else knows the number of GPUs

        return max(1, torch.cuda.device_count())
    # What is no number is refused by the task, with the reason.
    return devices if isinstance(devices, int) and devices > 0 else 1


def run_ranks(command: Sequence[str], count: int, nodes: int, threads: int | None) -> None:
    """Run a job in `count` processes on this machine and wait for all of them.

    Whatever ends one of them ends all: a failure, a kill, Ctrl-C or a signal to this process.

    Args:
        command: the words after `python -m saliency_lab`.
        nodes: machines that take part; on each, the same command is started with its NODE_RANK
            and the first machine's MASTER_ADDR and MASTER_PORT in the environment.
        threads: CPU threads of each process; None: an equal share of the cores.

    Raises:
        UserError: a process was refused its job; the message is its own.
        ProcessError: a process failed or was killed.
        KeyboardInterrupt: a process was interrupted by itself.
    """
    with tempfile.TemporaryDirectory(prefix="saliency_lab-") as outcomes:
        ranks: list[_Rank] = []
        try:
            for number, variables in enumerate(_environments(count, nodes, threads, outcomes)):
                # In a group of its own: a terminal's Ctrl-C goes to this process alone, which
                # hands it on; a process that is interrupted twice is disturbed on its way out.
                process = subprocess.Popen(
                    [sys.executable, "-m", "saliency_lab", *command],
                    env=variables,
                    process_group=0,
                )
                ranks.append(_Rank(number, process))
            _wait([rank.process for rank in ranks])
        finally:
            _stop(ranks)
        _raise_failure(ranks, _outcomes(Path(outcomes)))


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    stopped: bool = False
    """Whether it was told to end."""


def leave_outcome(error: Exception) -> None:
    """Tell the process that started this one why the job failed."""
    path = outcome_path(process_rank())
    known = isinstance(error, UserError)
    outcome = {
        "time": time.time(),
        "user_error": known,
        "error": str(error) if known else traceback.format_exception_only(error)[-1].strip(),
        "traceback": "".join(traceback.format_exception(error)),
    }
    # The disk may be full, or the parent gone with its folder: then the exit code has to do.
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(outcome))


def _environments(
    count: int, nodes: int, threads: int | None, outcomes: str
) -> Iterator[dict[str, str]]:
    from saliency_lab.data.cache import usable_cores  # numpy, which `--cfg job` can do without

    node = int(os.environ.get("NODE_RANK", 0))
    share = threads or max(1, usable_cores() // count)
    common = {
        PARENT: str(os.getpid()),
        OUTCOMES: outcomes,
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(_free_port()),
        "NODE_RANK": str(node),
        "WORLD_SIZE": str(count * nodes),
    }
    if threads is not None or "OMP_NUM_THREADS" not in os.environ:
        common["OMP_NUM_THREADS"] = str(share)
    for local in range(count):
        own = {"LOCAL_RANK": str(local), "RANK": str(node * count + local)}
        yield {**os.environ, **common, **own}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended well, or for a while after the first that has not."""
    while not all(process.poll() == 0 for process in processes):
        if any(process.returncode for process in processes):
            until = time.monotonic() + SECONDS_TO_FOLLOW
            while time.monotonic() < until and any(p.poll() is None for p in processes):
                time.sleep(0.05)
            return
        time.sleep(0.05)


def _stop(ranks: Sequence[_Rank]) -> None:
    """Interrupt what still runs, wait for it to save its state, and kill what does not end."""
    running = [rank for rank in ranks if rank.process.poll() is None]
    for rank in running:
        rank.stopped = True
        rank.process.send_signal(signal.SIGINT)
    until = time.monotonic() + SECONDS_TO_STOP
    while time.monotonic() < until and any(rank.process.poll() is None for rank in running):
        time.sleep(0.05)
    for rank in running:
        rank.process.kill()
        rank.process.wait()


def _outcomes(folder: Path) -> list[dict[str, Any]]:
    """What the processes left word of, the first first."""
    found = []
    for path in folder.glob("rank-*.json"):
        # A process that is killed while it writes leaves half a file.
        with contextlib.suppress(ValueError):
            number = int(path.stem.removeprefix("rank-"))
            found.append({"rank": number, **json.loads(path.read_text())})
    return sorted(found, key=lambda outcome: outcome["time"])


def _raise_failure(ranks: Sequence[_Rank], outcomes: Sequence[Mapping[str, Any]]) -> None:
    count = len(ranks)
    failed = [rank for rank in ranks if rank.process.returncode and not rank.stopped]
    for rank in failed:
        if rank.process.returncode < 0:
            name = signal.Signals(-rank.process.returncode).name
            raise ProcessError(
                f"process {rank.number} of {count} (pid {rank.process.pid}) was killed by {name} "
                "and the others were stopped; rerun the same command to resume"
            )
    for outcome in outcomes:
        if outcome["user_error"]:
            raise UserError(outcome["error"])
        print(outcome["traceback"], end="", file=sys.stderr)
        raise ProcessError(f"process {outcome['rank']} of {count} failed: {outcome['error']}")
    for rank in failed:
        if rank.process.returncode == 130:
            raise KeyboardInterrupt
        raise ProcessError(
            f"process {rank.number} of {count} ended with code {rank.process.returncode}"
        )
