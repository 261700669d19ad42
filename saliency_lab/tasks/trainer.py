"""Lightning's Trainer with the settings of the `trainer` group."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.strategies import DDPStrategy

from saliency_lab.errors import UserError

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
    several = devices != 1 or num_nodes > 1 or strategy == "ddp"
    wait = datetime.timedelta(seconds=timeout)
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=DDPStrategy(timeout=wait) if several else "auto",
            max_epochs=max_epochs,
            precision=precision,
            deterministic=deterministic,
            gradient_clip_val=gradient_clip_val,
            sync_batchnorm=sync_batchnorm and several,
            default_root_dir=directory,
            callbacks=list(callbacks),
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
            f"on this machine, but got: {str(error).strip().splitlines()[0]}"
        ) from error
