"""From `sys.argv` to Hydra and back to an exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from saliency_lab import __version__
from saliency_lab.cli.choices import single_choices
from saliency_lab.cli.older_words import renamed
from saliency_lab.cli.words import TASKS, overview, task_of
from saliency_lab.errors import ProcessError, UserError
from saliency_lab.runs.processes import (
    end_with_parent,
    outcome_path,
    process_rank,
    started_by_us,
)
from saliency_lab.training.lookup import FLAGS_WITH_VALUE
from saliency_lab.training.origin import with_origin

USER_ERROR, FAULT, INTERRUPTED = 2, 1, 130
# What a shell says of a program that a closed pipe has ended: 128 + SIGPIPE.
PIPE_CLOSED = 141


def run() -> None:
    """Run the command that `sys.argv` holds and exit with its code.

    0: done. 1: a fault of the program, with its traceback. 2: a mistake of the user, one line.
    130: Ctrl-C. 141: nobody reads on (`| head`), which is no fault and says nothing.
    """
    # What a terminal's encoding lacks is escaped rather than ending hours of work.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _answered(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        code = PIPE_CLOSED
    sys.exit(code)


def _nobody_reads() -> bool:
    """Whether it is standard output that is closed; Python is kept from complaining at its exit."""
    try:
        # An empty write succeeds on any pipe, and the buffer may be empty by now.
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _answered(arguments: list[str]) -> int:
    """The exit code, once everything is done."""
    if arguments and arguments[0] in ("-sc", "--shell-completion"):
        return _completed(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else USER_ERROR
    if arguments[0] == "--version":
        print(__version__)
        return 0
    return _exit_code(arguments)


def _exit_code(arguments: list[str]) -> int:
    from saliency_lab.cli.faults import one_line
    from saliency_lab.cli.jobs import forget_kept_errors, raise_kept_error
    from saliency_lab.cli.sweep import Sweep

    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    task, rest, sweep = "", arguments, None
    if started_by_us():
        end_with_parent()
        # A shell starts what is to run in the background with interrupts ignored, and that is
        # inherited; the process that started this one tells it to stop by an interrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Lightning's handler would note it and go on with the test loop; a scheduler soon kills.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        task, rest = task_of(arguments)
        if task == "runs":
            from saliency_lab.tasks.runs import run as look_at_runs

            look_at_runs(rest)
            return 0
        rest = with_origin(task, single_choices(renamed(_flags_first(rest))))
        sweep = Sweep.of(rest)
        with _argv(rest), _hydra_raises():
            _hydra_main(task)
        raise_kept_error()
        if sweep is not None:
            sweep.say_end()
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        # Lightning turns Ctrl-C into a clean shutdown and then exit(1).
        if isinstance(stop.__context__, KeyboardInterrupt):
            return _interrupted()
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else FAULT
    except Exception as error:  # noqa: BLE001 - the outermost frame decides what is shown
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return PIPE_CLOSED
        if sweep is not None and sweep.failed():
            return sweep.report()
        if started_by_us() and outcome_path(process_rank()).exists():
            # The process that started this one says it, once for all of them.
            return USER_ERROR if isinstance(error, UserError) else FAULT
        if isinstance(error, ProcessError):
            print(f"error: {error}", file=sys.stderr)
            return FAULT
        line = one_line(error, task, rest)
        if line is None or show_traceback:
            traceback.print_exception(error)
        if line is not None:
            print(f"error: {line}", file=sys.stderr)
        return FAULT if line is None else USER_ERROR
    finally:
        forget_kept_errors()
        if sweep is not None:
            sweep.close()
    return 0


def _flags_first(rest: list[str]) -> list[str]:
    """Flags in front, wherever they were typed: Hydra takes none between settings."""
    flags, others, left = [], [], iter(rest)
    for word in left:
        if word in FLAGS_WITH_VALUE:
            flags += [word, *itertools.islice(left, 1)]
        elif word.startswith("-"):
            flags += [] if word in flags else [word]
        else:
            others.append(word)
    return [*flags, *others]


def _interrupted() -> int:
    if not started_by_us():
        print("Interrupted; rerun the same command to resume.", file=sys.stderr)
    return INTERRUPTED


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _hydra_main(task: str) -> None:
    import hydra

    from saliency_lab.cli.jobs import run_task
    from saliency_lab.cli.places import register_resolvers
    from saliency_lab.config.location import config_directory
    from saliency_lab.config.schema import register_schemas

    register_schemas()
    register_resolvers()
    hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=task)(
        run_task
    )()


@contextlib.contextmanager
def _argv(rest: list[str]) -> Iterator[None]:
    """Hydra reads `sys.argv` without the task word; what starts child ranks needs it with it."""
    before = sys.argv
    sys.argv = [before[0], *rest]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _hydra_raises() -> Iterator[None]:
    """Hydra hands its exceptions on instead of printing them in its own way."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    parser_error = argparse.ArgumentParser.error
    # Its parser of flags would print five lines of usage.
    setattr(argparse.ArgumentParser, "error", _refused)  # noqa: B010 - a method, put back below
    try:
        yield
    finally:
        setattr(argparse.ArgumentParser, "error", parser_error)  # noqa: B010
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR")
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _refused(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    raise UserError(f"Cannot read the command line: {message} (see --help)")


def _completed(arguments: list[str]) -> int:
    """Tab completion: the task words by this module, what follows them by Hydra."""
    task = "train"
    if "COMP_LINE" in os.environ:
        line = os.environ["COMP_LINE"]
        words = line.split()
        if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
            start = words[1] if len(words) == 2 else ""
            print("\n".join(name for name in TASKS if name.startswith(start)))
            return 0
        task = words[1] if words[1] in TASKS else task
        if task == "runs":
            from saliency_lab.tasks.runs import KEYS

            start = "" if line.endswith(" ") else words[-1]
            print("\n".join(f"{key}=" for key in KEYS if key.startswith(start)))
            return 0
        # Hydra completes `program overrides` and knows no task word.
        without = line.replace(f" {words[1]}", "", 1)
        os.environ["COMP_LINE"], os.environ["COMP_POINT"] = without, str(len(without))
    with _argv(arguments):
        _hydra_main(task)
    return 0
