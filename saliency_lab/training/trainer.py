"""Lightning's Trainer with the settings of the `trainer` group."""

from __future__ import annotations

import datetime
import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt
from lightning_fabric.plugins import ClusterEnvironment
from lightning_fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.strategies import DDPStrategy

from saliency_lab.errors import UserError
from saliency_lab.runs.processes import process_count, started_by_launcher, started_by_us

log = logging.getLogger(__name__)

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "64-true"]


def trainer(
    *,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    devices: Annotated[int, Gt(0)] | Literal["auto"] = 1,
    num_nodes: Annotated[int, Gt(0)] = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    max_epochs: Annotated[int, Gt(0)] = 50,
    precision: Precision = "32-true",
    deterministic: bool | Literal["warn"] = "warn",
    gradient_clip_val: Annotated[float, Gt(0)] | None = None,
    sync_batchnorm: bool = False,
    batch: Literal["global", "per_process"] = "global",
    threads: Annotated[int, Gt(0)] | None = None,
    progress: Literal["auto", "bar", "lines", "off"] = "auto",
    timeout: Annotated[float, Ge(1)] = 1800,
    directory: Path,
    callbacks: Sequence[pl.Callback],
    loggers: Sequence[Any] = (),
) -> pl.Trainer:
    """A Trainer for this machine.

    Args:
        accelerator: `auto` is a CUDA or ROCm GPU if there is one, else the CPU; `gpu` asks for one.
        deterministic: True refuses operations without a deterministic form, `warn` names them;
            set for every job, since torch keeps it for the whole process.
        batch: read by the train task. threads, progress: likewise.
        timeout: seconds after which processes that wait for a lost one give up.
        directory: where Lightning keeps what it writes by itself (a requeued job's state).

    Raises:
        UserError: the accelerator or number of devices is not there.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif accelerator == "cpu" or not torch.cuda.is_available():
        warn_of_a_busy_machine()
    # Not left to Lightning, which takes Apple's GPUs: those have no float64, and measures need it.
    found = "cpu" if accelerator == "cpu" else "cuda"
    if accelerator == "auto" and not torch.cuda.is_available():
        found = "cpu"
    devices, num_nodes = _places(devices, num_nodes)
    # Deterministic mode would also fill every new tensor with NaN, to show reads of memory that
    # nothing was written to; it costs five percent and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        # Lightning has torch look for NVIDIA's library, and each optimizer step looks anew.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    several = devices not in (1, "auto") or num_nodes > 1 or strategy == "ddp"
    wait = datetime.timedelta(seconds=timeout)
    try:
        return pl.Trainer(
            accelerator=found,
            devices=devices,
            num_nodes=num_nodes,
            strategy=DDPStrategy(timeout=wait) if several else "auto",
            plugins=[_cluster()],
            max_epochs=max_epochs,
            precision=precision,
            deterministic=deterministic,
            gradient_clip_val=gradient_clip_val,
            sync_batchnorm=sync_batchnorm and several,
            default_root_dir=directory,
            callbacks=[*callbacks, _Threads(threads)],
            logger=list(loggers) or False,
            # Saliency needs gradients inside the test loop.
            inference_mode=False,
            # The data modules shard by themselves, without padding.
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=50,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(
            f"Expected `trainer.accelerator={accelerator}` with `trainer.devices={devices}` to be "
            f"available on this machine, but got: {str(error).strip().splitlines()[0]}"
        ) from error


@functools.cache
def warn_of_a_busy_machine() -> None:
    """Say, once and before this process is itself what keeps the machine busy, if others are.

    Threads of one operation wait for the slowest of them. Where another program holds a core,
    that is all the time: a small network on four such cores was forty times slower than on one.
    """
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    busy = psutil.getloadavg()[0]
    if threads > 1 and busy >= 1 and busy + threads > 1.25 * cores:
        free = max(1, cores - round(busy))
        log.warning(
            "%.1f of %d cores are busy with other programs, so %d threads may stall each other; "
            "trainer.threads=%d may be many times faster",
            busy,
            cores,
            threads,
            free,
        )


class _Threads(pl.Callback):
    """Keeps the number of threads that was asked for: Lightning's start of processes changes it."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)


def _cluster() -> ClusterEnvironment:
    """Who has started the processes. Not left to Lightning, which takes any process inside a SLURM
    allocation for one of srun's."""
    if not started_by_launcher():
        return _OneOfOurs() if started_by_us() else LightningEnvironment()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return TorchElasticEnvironment()
    # A requeued job goes on as any other does, from the files in its run directory.
    return SLURMEnvironment(auto_requeue=False)


class _OneOfOurs(LightningEnvironment):
    """Of a process that this program started: how many there are holds for all its trainers."""

    def teardown(self) -> None:
        """Nothing: Lightning would forget WORLD_SIZE after the first training of several."""


def _places(devices: int | Literal["auto"], num_nodes: int) -> tuple[int | Literal["auto"], int]:
    """Processes per machine and machines: a launcher's word holds where it started the processes.

    Raises:
        UserError: the configuration wants another number.
    """
    if started_by_us():
        return process_count() // num_nodes, num_nodes
    if not started_by_launcher():
        return devices, num_nodes
    count = process_count()
    named = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE")
    here = count if named is None else int(named)
    given = devices if devices != "auto" else here
    if (given, num_nodes) not in ((1, 1), (here, count // here)):
        raise UserError(
            f"Expected `trainer.devices` and `trainer.num_nodes` to be {here} and {count // here}, "
            f"as the launcher has started the processes, but got {devices} and {num_nodes}"
        )
    return here, count // here
