"""One job: from Hydra's composed configuration to a task in its run directory."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from saliency_lab.cli.logs import close_logs, configure_logging
from saliency_lab.cli.sweep import leave_record
from saliency_lab.errors import UserError
from saliency_lab.runs.directory import require_same_run
from saliency_lab.runs.processes import LAUNCH_VARIABLES, process_rank, started_by_launcher

log = logging.getLogger(__name__)


def run_task(config: DictConfig) -> None:
    """Run one task; the function that Hydra calls for a run and for every job of a sweep."""
    hydra_config: Any = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if not isinstance(plain, dict):
        raise TypeError(f"Expected a mapping as configuration, but got {type(plain).__name__}")
    settings = {str(key): value for key, value in plain.items() if key != "hydra"}
    task = str(settings["task"])
    configure_logging(directory, task)
    argv = sys.argv
    sys.argv = _own_command(task, hydra_config)
    try:
        if not settings["overwrite"]:
            require_same_run(directory, settings)
        importlib.import_module(f"saliency_lab.tasks.{task}").run(settings, directory)
    except Exception as error:
        _record(hydra_config, error)
        if isinstance(error, UserError):
            _forget(directory, Path(settings["output_root"]).absolute())
        raise
    finally:
        sys.argv = argv
        _leave_process_group()
    _record(hydra_config, None)


def _forget(directory: Path, output_root: Path) -> None:
    """Remove the directory of a job that was refused before it left anything but log lines."""
    if process_rank() > 0 or any(path.suffix != ".log" for path in directory.iterdir()):
        return
    close_logs()
    for path in directory.iterdir():
        path.unlink()
    for folder in (directory, *directory.parents):
        if folder == output_root or not folder.is_relative_to(output_root) or any(folder.iterdir()):
            return
        folder.rmdir()


def _own_command(task: str, hydra_config: DictConfig) -> list[str]:
    """The command line that runs this very job and nothing else.

    Lightning starts child ranks from `sys.argv`. Left as it is, rank 1 of a sweep's job would
    start the whole sweep again, in a directory of its own.
    """
    kept = [word for word in hydra_config.overrides.hydra if not word.startswith(_NOT_KEPT)]
    place = str(hydra_config.runtime.output_dir).replace("'", "\\'")
    flags = []
    for source in hydra_config.runtime.config_sources:
        if source.provider == "command-line":
            flags = ["--config-dir", source.path]
    return [
        sys.argv[0],
        task,
        *flags,
        *hydra_config.overrides.task,
        *kept,
        "hydra.mode=RUN",
        f"hydra.run.dir='{place}'",
    ]


_NOT_KEPT = ("hydra.mode=", "hydra.run.dir=", "hydra.sweep", "hydra/launcher", "hydra.launcher")


def _record(hydra_config: DictConfig, error: Exception | None) -> None:
    if hydra_config.mode != RunMode.MULTIRUN or process_rank() > 0:
        return
    overrides = " ".join(hydra_config.overrides.task)
    outcome: dict[str, Any] = {"status": "finished"}
    if error is not None:
        known = isinstance(error, UserError)
        text = str(error) if known else "".join(traceback.format_exception_only(error)).strip()
        outcome = {"status": "failed", "user_error": known, "error": text}
        log.error("job failed: %s\n  %s", overrides, text, exc_info=None if known else error)
    directory = Path(hydra_config.sweep.dir)
    leave_record(directory, int(hydra_config.job.num), overrides, **outcome)


def _leave_process_group() -> None:
    """Undo what a multi-process job leaves in this process, so that the next job starts clean."""
    if "torch.distributed" in sys.modules:
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if not started_by_launcher() and process_rank() == 0:
        for variable in LAUNCH_VARIABLES:
            os.environ.pop(variable, None)
