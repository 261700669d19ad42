"""One job: from Hydra's composed configuration to a task in its run directory."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from saliency_lab.cli.faults import one_line
from saliency_lab.cli.logs import IN_FILE_ONLY, close_logs, configure_logging
from saliency_lab.cli.ranks import leave_outcome, processes_here, run_ranks
from saliency_lab.cli.roots import kept
from saliency_lab.cli.search import objective, require_searchable
from saliency_lab.cli.sweep import is_own_sweep, leave_record
from saliency_lab.config.identity import with_text_names
from saliency_lab.errors import ProcessError, UserError
from saliency_lab.runs.directory import is_finished, remove_empty, require_same_run
from saliency_lab.runs.processes import process_rank, started_by_launcher, started_by_us
from saliency_lab.training.origin import of_training, stored_settings

log = logging.getLogger(__name__)


def run_task(config: DictConfig) -> float | None:
    """Run one task; the function that Hydra calls for a run and for every job of a sweep.

    Returns:
        What a sweeper that optimises goes by, where the task has something of the kind.
    """
    hydra_config: Any = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    try:
        settings = _settings(config)
    except Exception as error:
        line = one_line(error, str(config.task), list(hydra_config.overrides.task))
        if line is None or not _told_here(hydra_config):
            raise
        _forget(directory, Path(config.output_root).absolute())
        _kept.append(UserError(line))
        _record(hydra_config, _kept[-1])
        return None
    task = str(settings["task"])
    configure_logging(directory, task)
    argv = sys.argv
    sys.argv = _own_command(task, hydra_config)
    try:
        require_searchable(task, settings, hydra_config)
        if not settings["overwrite"]:
            require_same_run(directory, settings)
        _start(task, settings, directory)
    except Exception as error:
        _record(hydra_config, error)
        if started_by_us():
            leave_outcome(error)
        if started_by_us() or process_rank() > 0:
            log.error("process %d failed", process_rank(), exc_info=error, extra=IN_FILE_ONLY)
        if isinstance(error, UserError):
            _forget(directory, Path(settings["output_root"]).absolute())
        if started_by_launcher() and hydra_config.mode == RunMode.MULTIRUN:
            # The others may be elsewhere in this job; none may begin the next without them.
            raise SystemExit(2 if isinstance(error, UserError) else 1) from error
        if not _told_here(hydra_config):
            raise
        _kept.append(error)
        return None
    finally:
        sys.argv = argv
        _leave_process_group()
    _record(hydra_config, None)
    return objective(task, directory)


def _settings(config: DictConfig) -> dict[str, Any]:
    """The composed configuration with everything that it refers to looked up."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if not isinstance(plain, dict):
        raise TypeError(f"Expected a mapping as configuration, but got {type(plain).__name__}")
    settings = {str(key): value for key, value in plain.items() if key != "hydra"}
    if "classifier" in settings:
        # The checkpoint is the truth about its model, whatever `model` was left at.
        settings["model"] = settings["classifier"]["model"]
    settings = with_text_names(settings)
    if settings.get("run") is not None and "classifier" in settings:
        settings = of_training(settings, stored_settings(Path(settings["run"])))
    return settings


# Hydra adds a line of its own to an exception that passes through it, so a job of this process
# keeps its error here until Hydra is done.
_kept: list[Exception] = []


def raise_kept_error() -> None:
    """Raise the first error of this process's jobs, if there was one."""
    errors, _kept[:] = list(_kept), []
    if errors:
        raise errors[0]


def forget_kept_errors() -> None:
    """Leave nothing to a later command of this process: a search may end by an error of its own."""
    _kept.clear()


def _told_here(hydra_config: Any) -> bool:
    """Whether this process will tell the user; a launcher's worker hands exceptions on."""
    return hydra_config.mode != RunMode.MULTIRUN or is_own_sweep()


def _forget(directory: Path, output_root: Path) -> None:
    """Remove the directory of a job that was refused before it left anything but log lines."""
    if started_by_us() or started_by_launcher():
        return  # other processes of the job still write their logs there
    # Another job of the sweep may have been refused in the same directory, and remove it now.
    with contextlib.suppress(FileNotFoundError):
        if any(path.suffix != ".log" for path in directory.iterdir()):
            return
        close_logs()
        for path in directory.iterdir():
            path.unlink(missing_ok=True)
    remove_empty(directory, kept(output_root))


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
        told = isinstance(error, UserError | ProcessError)
        text = str(error) if told else "".join(traceback.format_exception_only(error)).strip()
        outcome = {"status": "failed", "user_error": known, "error": text}
    directory = Path(hydra_config.sweep.dir)
    leave_record(directory, int(hydra_config.job.num), overrides, **outcome)
    if error is not None:
        log.error("job failed: %s\n  %s", overrides, text, exc_info=None if told else error)


# The other tasks are the work of one process.
_IN_PROCESSES = ("train", "evaluate", "compare")


def _start(task: str, settings: dict[str, Any], directory: Path) -> None:
    """Run the task in this process, or in as many as its settings ask for."""
    if not is_finished(directory):
        _require_root(settings)
    count, launched = 1, started_by_us() or started_by_launcher()
    if task in _IN_PROCESSES and not launched:
        count = processes_here(settings["trainer"])
    module = f"saliency_lab.tasks.{task}"
    if count == 1:
        importlib.import_module(module).run(settings, directory)
        return
    # Processes that have nothing to do are not even started.
    if is_finished(directory) and importlib.import_module(module).is_done(settings, directory):
        importlib.import_module(module).say_done(settings, directory)
        return
    missing = settings.get("classifier", {}).get("error")
    if missing is not None:
        raise UserError(missing)
    trainer = settings["trainer"]
    run_ranks(sys.argv[1:], count, trainer.get("num_nodes", 1), trainer.get("threads"))


def _require_root(settings: dict[str, Any]) -> None:
    """Refuse a `data.root` that is not there before torch is imported, which takes seconds.

    Only for the data sets of this package that read one: a person's own may mean something else.
    """
    data = settings.get("data", {})
    target, root = str(data.get("_target_")), data.get("root")
    if root is not None and target.startswith("saliency_lab.data.") and "shapes" not in target:
        from saliency_lab.data.listing import existing_root

        existing_root(str(root))


def _leave_process_group() -> None:
    """Leave the group of this job's processes; a launcher's processes stay one for all jobs."""
    if "torch.distributed" in sys.modules and not started_by_launcher():
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
